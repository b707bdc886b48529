"""How much work waits.

`LLEN queue` sees one of ten priority lists and none of what is delayed or in hand, so that alerts and autoscaling stay
blind.
"""

import json
import time
from collections import Counter
from datetime import datetime
from typing import Any

from ..contract import QueueStatus, WorkerStatus
from ..queues import QUEUES
from ..runtime.connection import redis
from . import workers

PRIORITIES = range(10)
LOOKED_AT = 200  # messages per list, the oldest; of the others, delayed ones that no worker holds count as waiting


def list_name(queue: str, step: int) -> str:
    """Kombu's list for this priority of a queue."""
    return f"{queue}:{step}" if step else queue


def _due(message: dict[str, Any]) -> float | None:
    """When this message's job is or was due, None if it does not say."""
    try:
        headers = message.get("headers") or {}
        if eta := headers.get("eta"):
            return datetime.fromisoformat(eta).timestamp()
        return float(headers["job"]["submitted_at"])
    except (ValueError, AttributeError, TypeError, KeyError):
        return None  # not a message of ours; a worker will make a dead letter of it if it is none at all


def _due_of(text: str) -> float | None:
    try:
        return _due(json.loads(text))
    except ValueError:
        return None


def queues(alive: list[WorkerStatus] | None = None) -> list[QueueStatus]:
    """Every queue with its backlog."""
    alive = workers.alive() if alive is None else alive
    now = time.time()
    with redis().pipeline(transaction=False) as pipe:
        for queue in QUEUES:
            for step in PRIORITIES:
                pipe.llen(list_name(queue.name, step))
                pipe.lrange(list_name(queue.name, step), -LOOKED_AT, -1)
        pipe.hvals("unacked")
        pipe.hgetall("dead:queues")
        *lists, unacked, dead = pipe.execute()
    delayed: Counter[str] = Counter()
    in_flight: Counter[str] = Counter()
    for text in unacked:
        message, _, queue_name = json.loads(text)
        (delayed if (_due(message) or now) > now else in_flight)[queue_name] += 1
    found = []
    for index, queue in enumerate(QUEUES):
        part = lists[index * 2 * len(PRIORITIES) : (index + 1) * 2 * len(PRIORITIES)]
        moments = [due for texts in part[1::2] for text in texts if (due := _due_of(text)) is not None]
        delayed[queue.name] += (later := sum(due > now for due in moments))
        waiting = sum(part[0::2]) - later
        found.append(
            QueueStatus(
                name=queue.name,
                depth=waiting + delayed[queue.name] + in_flight[queue.name],
                waiting=waiting,
                delayed=delayed[queue.name],
                in_flight=in_flight[queue.name],
                oldest_age=max(0.0, now - min(moments)) if moments else 0.0,
                workers=sum(queue.name in worker.queues for worker in alive),
                dead_letters=int(dead.get(queue.name, 0)),
            )
        )
    return found


def running() -> list[str]:
    """The ids of the jobs that workers have in hand and that are due; some may wait for a free process."""
    found = []
    for text in redis().hvals("unacked"):
        message, *_ = json.loads(text)
        if (_due(message) or 0) <= time.time() and (job_id := (message.get("headers") or {}).get("id")):
            found.append(str(job_id))
    return found
