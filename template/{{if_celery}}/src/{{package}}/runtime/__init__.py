"""What jobs/ is written with; each name is explained in the module that it comes from."""

from .context import JobContext, current_job
from .job import JobDeclarationError, job
from .limits import TokenBucket
from .locks import lock
from .polling import AdaptivePoll
from .progress import JobCancelled, progress
from .retry import PermanentError, RetryPolicy, Snooze, TransientError
from .routing import Rule
from .schedules import Schedule, crontab
from .workflows import Outcome, chain, chord, group

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
