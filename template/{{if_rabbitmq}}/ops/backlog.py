"""How much work waits, by what each job's record says (backlog.lua).

RabbitMQ's own count knows nothing of delayed jobs, nor how long one has waited, and needs its management plugin.
"""

import time

from ..contract import QueueStatus, WorkerStatus
from ..queues import QUEUES
from ..runtime.connection import redis
from ..settings import settings
from . import workers

RUNNING = "-inf", "(0"  # scores of what runs


def queues(alive: list[WorkerStatus] | None = None) -> list[QueueStatus]:
    """Every queue with its backlog."""
    alive = workers.alive() if alive is None else alive
    now = time.time()
    forgotten = now - settings().record_ttl
    with redis().pipeline(transaction=False) as pipe:
        pipe.hgetall("dead:queues")
        pipe.mget([f"problem:{queue.name}" for queue in QUEUES])
        for queue in QUEUES:
            key = f"backlog:{queue.name}"
            pipe.zremrangebyscore(key, -forgotten, forgotten)  # of both kinds: messages that somebody purged
            pipe.zcount(key, 0, now)
            pipe.zcount(key, f"({now}", "+inf")
            pipe.zcount(key, *RUNNING)
            pipe.zrange(key, 0, "+inf", byscore=True, offset=0, num=1, withscores=True)
        dead, problems, *counts = pipe.execute()
    found = []
    for index, queue in enumerate(QUEUES):
        _, waiting, delayed, in_flight, oldest = counts[index * 5 : index * 5 + 5]
        found.append(
            QueueStatus(
                name=queue.name,
                depth=waiting + delayed + in_flight,
                waiting=waiting,
                delayed=delayed,
                in_flight=in_flight,
                oldest_age=max(0.0, now - oldest[0][1]) if oldest else 0.0,
                workers=sum(queue.name in worker.queues for worker in alive),
                dead_letters=int(dead.get(queue.name, 0)),
                problem=problems[index],
            )
        )
    return found


def running() -> list[str]:
    """The ids of the jobs that run."""
    with redis().pipeline(transaction=False) as pipe:
        for queue in QUEUES:
            pipe.zrange(f"backlog:{queue.name}", *RUNNING, byscore=True)
        return [str(job_id) for ids in pipe.execute() for job_id in ids]
