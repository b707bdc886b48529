"""Say how far a job is: stage, done of total, a message; seen by API, events and command line.

A percentage cannot tell a stalled job from a slow one: here each report carries its time, and a running job without a lease
shows as stalled. Reporting is also where a job notices that it was cancelled.
"""

import time

from .context import current_job
from .record import records


class JobCancelled(Exception):
    """Somebody cancelled this job; raised by `progress` so that `finally` blocks run. Let it pass."""


def progress(*, stage: str | None = None, done: int | None = None, total: int | None = None, message: str | None = None) -> None:
    """Report; what is left out stays as it was. Outside a worker it does nothing. Raises JobCancelled."""
    job = current_job()
    fields = {"stage": stage, "done": done, "total": total, "message": message, "progress_at": time.time()}
    if job and records().update(job.id, fields):
        raise JobCancelled(job.id)
