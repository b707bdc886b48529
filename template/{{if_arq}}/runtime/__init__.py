"""What jobs/ is written with; each name is explained in the module that it comes from."""

from ..contract import JobDeclarationError
from .job import Cron, Job, Schedule, job
from .progress import JobCancelled, JobContext, current_job, progress
from .retry import PermanentError, RetryPolicy, Snooze, TransientError
from .routing import Rule
from .submission import Call
from .waiting import AdaptivePoll, TokenBucket, lock
from .workflows import Outcome, chain, group

__all__ = [
    "AdaptivePoll",
    "Call",
    "Cron",
    "Job",
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
    "current_job",
    "group",
    "job",
    "lock",
    "progress",
]
