"""Send jobs again whose messages the broker has lost, or cancel them.

Where a queue was purged or deleted, or its node forgot it, such a job would stay `queued`, and its key taken, until its
record expires. A job that has a message after all still runs once: its record drops the second one.
"""

import time
from collections.abc import Iterator

from ..celery import app
from ..contract import FINAL, BrokerUnavailable
from ..runtime.connection import UNAVAILABLE, redis
from ..runtime.record import job_key, records
from ..runtime.routing import known_queue
from ..runtime.serializer import loads
from ..settings import NotConfigured, settings
from . import losses


def repair(queue: str | None = None, *, cancel: bool = False) -> dict[str, int]:
    """Send (or cancel) each job without a message; how many, by queue. Raises UnknownQueue, or one of UNAVAILABLE."""
    act, done = records().cancel if cancel else send_again, {}
    for name in [queue] if queue in losses.OTHERS else [known_queue(queue)] if queue else losses.NAMES:
        lost = losses.list_lost(name)
        losses.restore(name)
        done[name] = sum(bool(act(job_id)) for job_id in lost)
    return done


def check() -> Iterator[tuple[str, str, str]]:
    """For `doctor`: jobs without a message, as (where, problem, how to mend it)."""
    try:
        counts = losses.count_lost()
        if any(counts.values()):
            time.sleep(settings().renewal)  # a message may just have been on its way to a worker
            counts = {name: min(count, counts[name]) for name, count in losses.count_lost().items()}
    except (BrokerUnavailable, NotConfigured, *UNAVAILABLE):  # not reachable from here; ops/broker.py says why
        return
    for name, count in counts.items():
        if count:
            mend = f"`queues repair {name}` sends them again, with --cancel it cancels them"
            yield f"queue {name}", f"{count} jobs wait by their records, but the broker has no message of theirs", mend


def send_again(job_id: str) -> bool:
    """Send the message of a job that has not ended once more; False if its record does not know it (any more)."""
    record = redis().hgetall(job_key(job_id))
    task = app.tasks.get(str(record.get("name")))
    if task is None or "sent" not in record or record["state"] in FINAL:
        return False
    args, kwargs, head, options = loads(record["sent"])
    task.apply_async(
        args,
        kwargs,
        job_id,
        queue=record["queue"],
        priority=int(record["priority"]),
        retries=int(record.get("retries", 0)),
        countdown=max(0.0, float(record.get("due_at", 0)) - time.time()) or None,
        headers={"job": {**head, "snoozes": int(record.get("snoozes", 0))}},
        **options,
    )
    return True
