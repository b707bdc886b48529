"""What a job knows about itself, and how it says how far it is: stage, done of total, a message.

A percentage cannot tell a stalled job from a slow one: here each report carries its time, and a running job without a
lease shows as stalled. Reporting is also where a job notices that it was cancelled.
"""

from contextvars import ContextVar
from dataclasses import dataclass

import structlog

from .bounds import report
from .connection import UNAVAILABLE
from .record import records

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class JobContext:
    """`attempt` counts from 1; pass `idempotency_key` on to what you call: a second run then has no second effect."""

    id: str
    name: str
    attempt: int
    queue: str
    idempotency_key: str | None
    trace_id: str
    root: str
    polls: int  # rounds of an AdaptivePoll that have ended


running: ContextVar[JobContext | None] = ContextVar("running", default=None)


def current_job() -> JobContext | None:
    """The job that runs in this task, None outside a worker."""
    return running.get()


class JobCancelled(Exception):
    """Somebody cancelled this job; raised by `progress` so that `finally` blocks run. Let it pass."""


async def progress(
    *, stage: str | None = None, done: int | None = None, total: int | None = None, message: str | None = None
) -> None:
    """Report; what is left out stays as it was. Outside a worker it does nothing. Raises JobCancelled, and
    ValueError for a number that is no count.
    """
    reported = report(stage=stage, done=done, total=total, message=message)
    job = current_job()
    if job is None:
        return
    try:
        cancelled = await records().update(job.id, at="progress_at", **reported)
    except UNAVAILABLE as error:
        log.warning("progress not recorded", error=str(error))
    else:
        if cancelled:
            raise JobCancelled(job.id)
