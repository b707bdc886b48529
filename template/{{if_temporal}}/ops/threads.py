"""A thread for each run of a plain function: in a pool, functions that never end would leave no thread for the others.

Python cannot end a thread. A function that is given up keeps its own, and when too many of these have gathered in a
process, it drains and its supervisor starts another.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

import structlog
from temporalio import activity
from temporalio.exceptions import CancelledError as ActivityCancelled

log = structlog.get_logger(__name__)
MOST_GIVEN_UP = 50  # threads: each holds what its function holds
P = ParamSpec("P")
T = TypeVar("T")

too_many = asyncio.Event()
_given_up: set[threading.Thread] = set()


class Threads(ThreadPoolExecutor):
    """What Temporal's worker takes for plain functions; its slots bound how many run."""

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Begin at once."""
        future = Future[T]()

        def run() -> None:
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, name=self._thread_name_prefix, daemon=True).start()
        return future


def interrupt() -> None:
    """Raise CancelledError in the thread of this activity, as Temporal does when it cancels one."""
    shielded: Any = activity._Context.current().shield_thread_cancel_exception
    if shielded:  # a method of what raises there, which waits for the end of such a block
        shielded.__self__.raise_in_thread(ActivityCancelled)


def give_up(thread: threading.Thread) -> None:
    """Leave it alone, as long as there are few of these."""
    ended = {each for each in _given_up if not each.is_alive()}
    _given_up.difference_update(ended)
    _given_up.add(thread)
    if len(_given_up) >= MOST_GIVEN_UP and not too_many.is_set():
        log.error("too many functions did not end when they were given up: another worker starts", count=MOST_GIVEN_UP)
        too_many.set()
