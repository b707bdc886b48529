"""Who is there to do the work, by each worker's own sign of life: a busy one misses a broadcast."""

import json
import time

from ..contract import WorkerStatus
from ..runtime.connection import redis
from ..settings import settings


def alive() -> list[WorkerStatus]:
    """The workers that gave a sign of life within three renewals."""
    living, forgotten, now = [], [], time.time()
    for name, text in sorted(redis().hgetall("workers").items()):
        worker = WorkerStatus(name=name, **json.loads(text))
        if now - worker.seen_at < 3 * settings().renewal:
            living.append(worker)
        elif now - worker.seen_at > 3600:
            forgotten.append(name)
    if forgotten:
        redis().hdel("workers", *forgotten)
    return living
