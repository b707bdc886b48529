"""How long a run may take, and that it ends when it shall, whatever its function does.

`SystemExit` in a coroutine ends the worker's event loop, and StopIteration in a thread never arrives: both leave a job
that nobody ends. Here each end of a function is a value or an error.
"""

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from temporalio import activity
from temporalio.exceptions import CancelledError as ActivityCancelled

from ..runtime.job import Job
from ..runtime.retry import TimedOut
from ..settings import settings
from . import threads

LAST_WORDS = 2.0  # seconds that a job has when its worker stops
FIRST_BEAT = 0.5  # seconds; each later pause is twice as long, up to half of RENEWAL: a cancel arrives with the answer
LOOK = 1.0  # seconds between two looks whether the worker stops; a coroutine is cancelled then


class Raised(Exception):
    """What the function raised, which may be any BaseException."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


@dataclass
class Limits:
    """The limits of one run."""

    job: Job[Any, Any]
    beat: Callable[[], None]
    overdue: bool = False
    thread: threading.Thread | None = None

    def guard(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which raises nothing but Raised, and CancelledError if it was cancelled."""
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def guarded(*args: Any) -> Any:
                try:
                    return await function(*args)
                except BaseException as error:
                    task = asyncio.current_task()
                    if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                        raise
                    raise Raised(error) from None
        else:

            @wraps(function)
            def guarded(*args: Any) -> Any:
                self.thread = threading.current_thread()
                try:
                    return function(*args)
                except BaseException as error:
                    cancelled = isinstance(error, ActivityCancelled | asyncio.CancelledError)
                    if cancelled and (self.overdue or activity.is_cancelled()):
                        raise ActivityCancelled("its function was interrupted") from None
                    raise Raised(error) from None

        return guarded

    async def keep(self, run: Awaitable[Any]) -> Any:
        """Its result. Sends heartbeats meanwhile; raises TimedOut, also if it does not end when it should."""
        task = asyncio.ensure_future(run)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # of one that was given up
        began = beaten = time.monotonic()
        pause = min(FIRST_BEAT, settings().renewal / 2)
        while not task.done():
            now = time.monotonic()
            left = began + (self.job.hard_limit if self.overdue else self.job.soft_limit) - now
            if left <= 0 and self.overdue:
                self._give_up()
                why = f"{self.job.name} ran longer than {self.job.hard_limit:g} s, and did not end at its soft limit"
                raise TimedOut(why)
            if left <= 0:
                self.overdue = True
                self._interrupt(task)
            elif (due := beaten + pause - now) <= 0:
                self.beat()
                beaten, pause = now, min(2 * pause, settings().renewal / 2)
            else:
                await self._wait(task, min(left, due, LOOK))
        if self.overdue and _cancelled(task):
            raise TimedOut(f"{self.job.name} ran longer than {self.job.soft_limit:g} s")
        if _cancelled(task) and not activity.is_cancelled():
            raise Raised(asyncio.CancelledError("the job cancelled its own task"))
        return task.result()

    async def _wait(self, task: asyncio.Future[Any], seconds: float) -> None:
        """Until it ends, so long at most; raises CancelledError when its worker ends and it does not."""
        try:
            await asyncio.wait({task}, timeout=seconds)
        except asyncio.CancelledError:
            task.cancel()
            if current := asyncio.current_task():
                current.uncancel()
        if _is_over() and not task.done():
            await asyncio.wait({task}, timeout=LAST_WORDS)
            if not task.done():
                self._give_up()
                raise asyncio.CancelledError

    def _interrupt(self, task: asyncio.Future[Any]) -> None:
        if self.thread:
            threads.interrupt()
        else:
            task.cancel()

    def _give_up(self) -> None:
        if self.thread:
            threads.give_up(self.thread)


def _is_over() -> bool:
    """Whether the run must end now; one whose job an operator cancels may take its time."""
    details = activity.cancellation_details()
    return details is not None and (not details.cancel_requested or activity.is_worker_shutdown())


def _cancelled(task: asyncio.Future[Any]) -> bool:
    return task.cancelled() or isinstance(task.exception(), ActivityCancelled)
