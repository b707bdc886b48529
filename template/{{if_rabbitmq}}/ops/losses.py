"""Find jobs that wait by their records, while RabbitMQ no longer holds their messages; keep what is wrong with a queue.

RabbitMQ reports nothing when a queue is purged, deleted or lost with its virtual host: the job stays `queued` and its
key taken. What RabbitMQ holds is known as a number for each queue, and without the messages that a worker has taken.
"""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator

from amqp.exceptions import NotFound
from kombu import Queue
from redis import Redis

from ..celery import app
from ..queues import QUEUES
from ..runtime.connection import redis
from ..runtime.record import job_key
from ..runtime.unserved import is_served
from ..topology import STOPPED
from . import workers

NAMES = [queue.name for queue in QUEUES]
OTHERS = [STOPPED]  # queues of no jobs, which may need a repair, too
SETTLED = 10.0  # seconds; what became due before then is not just on its way
HELD_FOR = 15  # seconds that a worker's note of what it holds is valid
PEEKED = 20_000  # messages at most that are looked at one by one


def note_held(client: Redis, worker: str, queues: Iterable[str]) -> None:
    """A worker holds messages of these queues, one each, for jobs that it has not begun."""
    client.set(f"held:{worker}", json.dumps(Counter(queues)), ex=HELD_FOR)


def report(client: Redis, queue: str, problem: str, seconds: int) -> None:
    """Let health, `doctor` and the alert say what is wrong with a queue, for so long."""
    client.set(f"problem:{queue}", problem, ex=seconds)


def clear(client: Redis, queue: str) -> None:
    client.delete(f"problem:{queue}")


def my_turn(client: Redis) -> bool:
    """One worker of all counts at a time."""
    return bool(client.set("problem:counted", 1, nx=True, ex=5))


def ready(queues: Iterable[str] = NAMES) -> dict[str, int]:
    """Messages in each queue that no worker has taken; raises one of UNAVAILABLE."""
    counts = {}
    with app.connection_for_write() as connection:
        for queue in queues:
            try:
                counts[queue] = connection.channel().queue_declare(queue, passive=True).message_count
            except NotFound:
                counts[queue] = 0
    return counts


def strays() -> Iterator[tuple[str, int, str]]:
    """What other programs sent without a queue: queue, count, how to send it."""
    yield "celery", ready(["celery"])["celery"], "send them with queue=, one of queues.py's"


def count_lost() -> dict[str, int]:
    """Jobs without a message in each queue, at least: where others wait, workers may just have taken some."""
    alive = workers.alive()
    held: Counter[str] = Counter()
    for text in redis().mget([f"held:{worker.name}" for worker in alive]) if alive else []:
        held.update(json.loads(str(text)) if text else {})
    found, lost = ready(), {}
    for queue in QUEUES:
        readers = [worker for worker in alive if queue.name in worker.queues]
        most = queue.prefetch * sum(worker.concurrency for worker in readers)
        taken = most if found[queue.name] else held[queue.name]
        lost[queue.name] = max(0, len(_without_run(queue.name, time.time() - SETTLED)) - found[queue.name] - taken)
    return lost


def list_lost(queue: str) -> list[str]:
    """The ids of its due jobs without a message; also of some that a worker has taken and not begun."""
    jobs = _without_run(queue, time.time())
    held = _peek(queue) if jobs and ready([queue])[queue] else set()
    return [job_id for job_id in jobs if job_id not in held]


def _without_run(queue: str, before: float) -> list[str]:
    """The ids of its jobs that were due before then, and of those whose worker is gone."""
    with redis().pipeline(transaction=False) as pipe:
        pipe.zrange(f"backlog:{queue}", 0, before, byscore=True)
        pipe.zrange(f"backlog:{queue}", "-inf", "(0", byscore=True)
        due, running = pipe.execute()
        for job_id in running:
            pipe.exists(f"{job_key(job_id)}:lease")
        leases = pipe.execute()
    return [*due, *(job_id for job_id, lease in zip(running, leases, strict=True) if not lease)]


def _peek(queue: str) -> set[str]:
    """The ids of the jobs whose messages are in the queue: all are taken, and go back when the connection ends."""
    ids: set[str] = set()
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        while len(ids) < PEEKED and (message := channel.basic_get(queue)):
            ids.add(str(message.headers.get("id")))
    return ids


def restore(queue: str) -> None:
    """Declare a queue again that RabbitMQ lists but does not serve."""
    if is_served(queue):
        return
    with app.connection_for_write() as connection:
        connection.default_channel.queue_delete(queue)
        Queue(queue).bind(connection.default_channel).declare()
