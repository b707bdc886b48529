"""Who is there to do the work, by each worker's own heartbeat: a busy one misses a broadcast.

Times are those of Redis' clock: by its own clock, an hour ahead, a dead worker would count as alive for that hour.
"""

import json
from collections.abc import Mapping

from redis import Redis

from ..contract import WorkerStatus
from ..runtime.connection import redis
from ..settings import settings

WORKERS = "workers"  # hash: name → WorkerStatus as JSON
# KEYS: the hash. ARGV: name, entry.
ENLIST = """local entry, time = cjson.decode(ARGV[2]), redis.call('TIME')
entry.seen_at = time[1] + time[2] / 1e6
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(entry))"""


def enlist(client: Redis, name: str, entry: Mapping[str, object]) -> None:
    """This worker is alive now."""
    client.eval(ENLIST, 1, WORKERS, name, json.dumps(entry))


def alive() -> list[WorkerStatus]:
    """The workers whose heartbeat is at most three renewals old."""
    with redis().pipeline(transaction=False) as pipe:
        pipe.time()
        pipe.hgetall(WORKERS)
        (seconds, microseconds), entries = pipe.execute()
    living, forgotten, now = [], [], seconds + microseconds / 1e6
    for name, text in sorted(entries.items()):
        entry = json.loads(text)
        entry["queues"] = list(entry["queues"])  # Lua writes no queues as {}
        worker = WorkerStatus(name=name, **entry)
        if abs(now - worker.seen_at) < 3 * settings().renewal:
            living.append(worker)
        elif abs(now - worker.seen_at) > 3600:
            forgotten.append(name)
    if forgotten:
        redis().hdel(WORKERS, *forgotten)
    return living
