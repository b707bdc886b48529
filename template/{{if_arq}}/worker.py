"""What arq's own command runs: `arq <package>.worker.WorkerSettings`; on all queues, without the supervisor.

arq makes a `Worker` of these settings; it must be ours, or none of the patterns holds.
"""

from socket import gethostname
from typing import Any, cast

import arq.worker
from arq.worker import func

from .jobs.resources import on_shutdown, on_startup
from .ops.native import address, options
from .ops.worker import QueueWorker
from .runtime.job import jobs

arq.worker.Worker = QueueWorker  # ty: ignore[invalid-assignment]
arq.worker.get_kwargs = options  # ty: ignore[invalid-assignment] - arq's own leaves out what a class inherits


class WorkerSettings:
    """arq's options. One that has no effect here keeps the worker from starting, and says what to use instead."""

    functions = tuple(func(cast("Any", job.function), name=job.name) for job in jobs().values())
    on_startup = on_startup
    on_shutdown = on_shutdown
    redis_settings = address()
    health_check_key = f"arq:health:{gethostname()}"  # of this host, for `arq --check`
