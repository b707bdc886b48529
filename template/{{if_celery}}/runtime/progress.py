"""What a job knows about itself, and how it says how far it is: stage, done of total, a message.

A percentage cannot tell a stalled job from a slow one: here each report carries its time, and a running job without a
lease shows as stalled. Reporting is also where a job notices that it was cancelled.
"""

import time
from contextlib import suppress
from dataclasses import dataclass

from celery import current_task

from .bounds import report
from .connection import UNAVAILABLE
from .record import envelope, queue_of, records


@dataclass(frozen=True, slots=True)
class JobContext:
    """`attempt` counts from 1; pass `idempotency_key` on to what you call: a second run then has no second effect."""

    id: str
    name: str
    attempt: int
    queue: str
    idempotency_key: str | None
    trace_id: str


def current_job() -> JobContext | None:
    """The job that runs in this process, None outside a worker."""
    task = current_task
    if not task or task.request.called_directly or task.request.is_eager:
        return None
    request = task.request
    head = envelope(request)
    return JobContext(
        id=str(request.id),
        name=task.name,
        attempt=(request.retries or 0) + 1,
        queue=queue_of(request),
        idempotency_key=head["key"] or None,
        trace_id=head["trace_id"],
    )


class JobCancelled(Exception):
    """Somebody cancelled this job; raised by `progress` so that `finally` blocks run. Let it pass."""


def progress(
    *, stage: str | None = None, done: int | None = None, total: int | None = None, message: str | None = None
) -> None:
    """Report; what is left out stays as it was. Outside a worker it does nothing. Raises JobCancelled.

    A report that Redis does not take now is dropped: it is not worth the job.
    """
    reported = report(stage=stage, done=done, total=total, message=message)
    if (job := current_job()) is None:
        return
    cancelled = False
    with suppress(*UNAVAILABLE):
        cancelled = records().update(job.id, **reported, progress_at=time.time())
    if cancelled:
        raise JobCancelled(job.id)
