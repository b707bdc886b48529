"""How much work waits, by what each job's record says (backlog.lua).

RabbitMQ's own count knows nothing of delayed jobs, nor how long one has waited, and needs its management plugin.
"""

import time

from ..contract import QueueStatus, WorkerStatus
from ..queues import QUEUES
from ..runtime.connection import redis
from ..settings import settings
from . import workers


def queues(alive: list[WorkerStatus] | None = None) -> list[QueueStatus]:
    """Every queue with its backlog."""
    alive = workers.alive() if alive is None else alive
    now = time.time()
    with redis().pipeline(transaction=False) as pipe:
        pipe.hgetall("dead:queues")
        for queue in QUEUES:
            for key in (f"backlog:{queue.name}", f"running:{queue.name}"):
                pipe.zremrangebyscore(key, "-inf", now - settings().record_ttl)  # messages that somebody purged
            pipe.zcount(f"backlog:{queue.name}", "-inf", now)
            pipe.zcount(f"backlog:{queue.name}", f"({now}", "+inf")
            pipe.zcard(f"running:{queue.name}")
            pipe.zrange(f"backlog:{queue.name}", 0, 0, withscores=True)
        dead, *counts = pipe.execute()
    found = []
    for index, queue in enumerate(QUEUES):
        _, _, waiting, delayed, in_flight, oldest = counts[index * 6 : index * 6 + 6]
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
            )
        )
    return found


def running() -> list[str]:
    """The ids of the jobs that run."""
    with redis().pipeline(transaction=False) as pipe:
        for queue in QUEUES:
            pipe.zrange(f"running:{queue.name}", 0, -1)
        return [str(job_id) for ids in pipe.execute() for job_id in ids]
