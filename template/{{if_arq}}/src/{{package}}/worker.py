"""What arq's own command runs: `arq <package>.worker.WorkerSettings`; on all queues, without the supervisor.

arq makes a `Worker` of these settings; it must be ours, or none of the patterns holds.
"""

from socket import gethostname

import arq.worker
from arq.worker import func

from .jobs.resources import on_shutdown, on_startup
from .ops.worker import QueueWorker
from .runtime.connection import arq_settings
from .runtime.job import jobs

arq.worker.Worker = QueueWorker  # ty: ignore[invalid-assignment]


class WorkerSettings:
    """arq reads these attributes; queues and concurrency are in queues.py, times in settings.py."""

    functions = tuple(func(job.function, name=job.name) for job in jobs().values())
    on_startup = on_startup
    on_shutdown = on_shutdown
    redis_settings = arq_settings()
    health_check_key = f"arq:health:{gethostname()}"  # of this host, for `arq --check`
