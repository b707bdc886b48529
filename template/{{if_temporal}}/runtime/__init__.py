"""What jobs/ is written with; each name is explained in the module that it comes from."""

from ..contract import JobDeclarationError
from .job import Job, job, workflow_job
from .progress import JobContext, current_job, progress
from .retry import PermanentError, RetryPolicy, Snooze, TransientError
from .routing import Rule
from .schedule import Cron, Schedule
from .submission import Call
from .waiting import AdaptivePoll, lock
from .workflows import Decision, JobWorkflow, Outcome

__all__ = [
    "AdaptivePoll",
    "Call",
    "Cron",
    "Decision",
    "Job",
    "JobContext",
    "JobDeclarationError",
    "JobWorkflow",
    "Outcome",
    "PermanentError",
    "RetryPolicy",
    "Rule",
    "Schedule",
    "Snooze",
    "TransientError",
    "current_job",
    "job",
    "lock",
    "progress",
    "workflow_job",
]
