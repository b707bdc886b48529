"""What jobs/ is written with; each name is explained in the module that it comes from.

chain, chord and group are Celery's own. `.get()` in a job deadlocks a busy pool: let the next step, the fan-in or
`on_error` carry on instead.
"""

from celery import chain, chord, group

from ..contract import JobDeclarationError
from .job import Schedule, crontab, job
from .progress import JobCancelled, JobContext, current_job, progress
from .results import Outcome
from .retry import PermanentError, RetryPolicy, Snooze, TransientError
from .routing import Rule
from .waiting import AdaptivePoll, TokenBucket, lock

__all__ = [
    "AdaptivePoll",
    "JobCancelled",
    "JobContext",
    "JobDeclarationError",
    "Outcome",
    "PermanentError",
    "RetryPolicy",
    "Rule",
    "Schedule",
    "Snooze",
    "TokenBucket",
    "TransientError",
    "chain",
    "chord",
    "crontab",
    "current_job",
    "group",
    "job",
    "lock",
    "progress",
]
