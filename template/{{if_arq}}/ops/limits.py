"""Hard limits: a job that runs over its own and is deaf to being stopped is given up; it would keep its slot for ever.

One that blocks the event loop as well is ended by the thread in leases.py.
"""

import asyncio
import io
import time
from typing import TYPE_CHECKING

from .execution import Taken

if TYPE_CHECKING:
    from .worker import QueueWorker


async def keep_limits(worker: "QueueWorker") -> None:
    """Each second, for ever; also shows that the event loop turns."""
    ends: set[asyncio.Task[None]] = set()
    while True:
        worker.ticked_at = time.monotonic()
        for taken in over_hard_limit(worker):
            task, stack = worker.tasks[taken.id], io.StringIO()
            task.print_stack(file=stack)
            worker.forget(taken)
            taken.ending, taken.stopped = True, "given up"
            task.cancel()
            ends.add(end := worker.loop.create_task(worker.execution.give_up(taken, stack.getvalue())))
            end.add_done_callback(ends.discard)
        await asyncio.sleep(1)


def over_hard_limit(worker: "QueueWorker", grace: float = 0) -> list[Taken]:
    """Jobs that run for longer than their hard limit and `grace` seconds."""
    now = time.monotonic()
    return [
        taken
        for taken in list(worker.running.values())
        if not taken.ending
        and not taken.waits
        and (job := worker.jobs.get(taken.name))
        and now - taken.began > job.hard_limit + grace
    ]
