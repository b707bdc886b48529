"""How much work waits in each queue, and who is there to do it, each in one round trip whatever the depth.

arq keeps what waits, what is due later and what runs in one sorted set, so that its own count alarms for a
schedule of next week and hides a stuck worker; here delayed and taken jobs are told apart, and nothing is left out.
"""

from pydantic_core import from_json

from ..contract import QueueStatus, WorkerStatus
from ..queues import QUEUES
from ..runtime.connection import redis, server_time, text, texts
from ..runtime.record import queue_key, running_key
from ..settings import settings

PRIORITIES = range(10)
FORGOTTEN = 3600.0  # seconds after which a worker that is gone is no longer remembered


async def workers() -> list[WorkerStatus]:
    """The workers whose heartbeat is at most three renewals old."""
    alive, forgotten, now = [], [], await server_time()
    stored: dict[bytes, bytes] = await redis().hgetall("workers")
    for name, seen in sorted(stored.items()):
        worker = WorkerStatus(name=text(name), **from_json(seen))
        if abs(now - worker.seen_at) < 3 * settings().renewal:
            alive.append(worker)
        elif abs(now - worker.seen_at) > FORGOTTEN:
            forgotten.append(name)
    if forgotten:
        await redis().hdel("workers", *forgotten)
    return alive


async def queues(alive: list[WorkerStatus] | None = None) -> list[QueueStatus]:
    """Every queue with its backlog."""
    alive = await workers() if alive is None else alive
    now = await server_time()
    async with redis().pipeline() as pipe:  # at one moment, or the differences below are wrong
        for queue in QUEUES:
            for priority in PRIORITIES:
                key = queue_key(queue.name, priority)
                pipe.zcard(key)
                pipe.zcount(key, "-inf", now * 1000)
                pipe.zrange(key, 0, 0, withscores=True)
            pipe.zcard(running_key(queue.name))
            pipe.zcount(running_key(queue.name), "-inf", now * 1000)
        pipe.hgetall("dead:queues")
        *answers, stored = await pipe.execute()
    dead = texts(stored)
    each, found = 3 * len(PRIORITIES) + 2, []
    for index, queue in enumerate(QUEUES):
        *counts, in_flight, over = answers[index * each : (index + 1) * each]
        due = sum(counts[1::3])  # a job that runs is due again when its lease is over
        waiting = due - over
        delayed = sum(counts[0::3]) - due - (in_flight - over)
        oldest = min((score / 1000 for first in counts[2::3] for _, score in first), default=now)
        found.append(
            QueueStatus(
                name=queue.name,
                depth=waiting + delayed + in_flight,
                waiting=waiting,
                delayed=delayed,
                in_flight=in_flight,
                oldest_age=max(0.0, now - oldest),
                workers=sum(queue.name in worker.queues for worker in alive),
                dead_letters=int(dead.get(queue.name, 0)),
            )
        )
    return found


async def running() -> list[str]:
    """The ids of the jobs that workers hold."""
    async with redis().pipeline(transaction=False) as pipe:
        for queue in QUEUES:
            pipe.zrange(running_key(queue.name), 0, -1)
        return [text(job_id) for ids in await pipe.execute() for job_id in ids]


async def strays() -> dict[str, int]:
    """Jobs in queues that no worker reads, by their keys: arq's own default, and queues that are no longer declared."""
    read = {queue_key(queue.name, priority) for queue in QUEUES for priority in PRIORITIES}
    found = {}
    async for key in redis().scan_iter(match="arq:queue*", count=1000, _type="zset"):
        if (name := text(key)) not in read:
            found[name] = await redis().zcard(name)
    return found
