"""What a job knows about itself, and how it says how far it is: stage, done of total, a message.

A percentage cannot tell a stalled job from a slow one: a report is a heartbeat of the activity, which carries its time.
"""

import asyncio
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from typing import Any

from .bounds import report


@dataclass(frozen=True, slots=True)
class JobContext:
    """`attempt` counts from 1; pass `idempotency_key` on to what you call: a second run then has no second effect."""

    id: str
    name: str
    attempt: int
    queue: str
    idempotency_key: str | None
    trace_id: str
    root: str
    generation: int  # 1, and one more for each replay


@dataclass
class Book:
    """What is known of an activity's runs, carried from one to the next in `heartbeat_details[0]`.

    The server counts every run as an attempt, also those that only waited or were handed back by a worker that stops.
    """

    ended: int = 0  # runs whose end is written down here
    back: int = 0  # of these: handed back, and put off by Snooze; neither spends an attempt
    snoozed: int = 0
    lost: int = 0  # of these: their worker was killed
    started_at: float | None = None  # the first one
    runs: list[list[Any]] = field(default_factory=list)  # [outcome, seconds waited, seconds run] of each
    progress: dict[str, Any] = field(default_factory=dict)

    def written(self) -> dict[str, Any]:
        """As it travels."""
        return asdict(self)

    def note(self, outcome: str, waited: float = 0, took: float = 0) -> None:
        """The end of one run."""
        self.ended += 1
        self.runs.append([outcome, round(waited, 3), round(took, 3)])

    def attempt(self, server_attempt: int) -> int:
        """Which attempt this run of the server's count is."""
        return server_attempt - self.back - self.snoozed


@dataclass
class Running:
    """The run in this context."""

    job: JobContext
    book: Book
    heartbeat: Callable[..., None]
    """Of the event loop on which this is made; a plain function runs in a thread."""
    details: tuple[Any, ...] = ()
    """What the job itself said in `activity.heartbeat(…)`."""
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def beat(self) -> None:
        """Send a heartbeat with all that the next run must know; waits for nothing, in a thread either."""
        if asyncio._get_running_loop() is self.loop:
            self.heartbeat(self.book.written(), *self.details)
        else:
            self.loop.call_soon_threadsafe(self.heartbeat, self.book.written(), *self.details)


running: ContextVar[Running | None] = ContextVar("running", default=None)


def current_job() -> JobContext | None:
    """The job that runs in this task or thread, None outside a worker."""
    run = running.get()
    return run.job if run else None


def progress(
    *, stage: str | None = None, done: int | None = None, total: int | None = None, message: str | None = None
) -> None:
    """Report; what is left out stays as it was. Outside a worker it does nothing."""
    reported = report(stage=stage, done=done, total=total, message=message)
    if run := running.get():
        run.book.progress |= {**reported, "updated_at": time.time()}
        run.beat()
