"""The one seam between the API or the command line and the job engine, and how long a caller waits: briefly for an
answer, to the end for a job.

A broker that is frozen rather than gone keeps connections open and answers nothing; without a limit of our own every
request and every command would hang with it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Protocol, TypeVar

from .contract import (
    FINAL,
    BrokerUnavailable,
    DeadLetter,
    Health,
    JobStatus,
    JobType,
    QueueStatus,
    Result,
    ScheduleStatus,
    Submission,
)

ANSWER_WITHIN = 2.5
"""Seconds; leaves time to tell the caller within the promised 3 s."""

POLL_EVERY = 0.25
"""Seconds between two looks at a job that is being followed."""

Answer = TypeVar("Answer")


class Engine(Protocol):
    """What `ops/engine.py` implements for each stack. Every method may raise `BrokerUnavailable`, within 3 s."""

    def job_types(self) -> list[JobType]:
        """Every job that can be submitted, by name."""

    async def submit(
        self,
        name: str,
        payload: Any,
        *,
        key: str | None = None,
        delay: float = 0,
        queue: str | None = None,
        priority: int | None = None,
    ) -> Submission:
        """Queue a job; `delay` in seconds. Raises UnknownJob, InvalidPayload, UnknownQueue, IdempotencyConflict."""

    async def status(self, job_id: str) -> JobStatus:
        """Raises UnknownJob."""

    async def result(self, job_id: str) -> Result:
        """Raises UnknownJob, NotFinished, JobFailed, ResultExpired."""

    async def cancel(self, job_id: str) -> JobStatus:
        """Ask the job to stop; a job that already ended keeps its state. Raises UnknownJob."""

    async def queues(self) -> list[QueueStatus]: ...

    async def running(self, limit: int = 100) -> list[JobStatus]:
        """Jobs that run now, the longest first; costs what `queues` costs, and running jobs nothing."""

    async def dead_letters(
        self, *, job: str | None = None, queue: str | None = None, reason: str | None = None, limit: int = 100
    ) -> list[DeadLetter]:
        """Newest first, without payload and traceback."""

    async def dead_letter(self, job_id: str) -> DeadLetter:
        """One dead letter whole. Raises NotADeadLetter."""

    async def replay(self, job_id: str) -> Submission:
        """Run it again as a new job. Raises NotADeadLetter; replaying twice answers the same job, created=False."""

    async def discard(self, job_id: str) -> None:
        """Forget it and free its idempotency key. Raises NotADeadLetter."""

    async def schedules(self) -> list[ScheduleStatus]: ...

    async def pause(self, name: str) -> None:
        """Let it fire no more, also after a restart, until `resume`. Raises UnknownSchedule."""

    async def resume(self, name: str) -> None:
        """Let it fire again, from its next time on: what it missed is not made up for. Raises UnknownSchedule."""

    async def fire(self, name: str) -> Submission:
        """Run its job now, beside its times, also if it is paused. Raises UnknownSchedule."""

    async def health(self) -> Health: ...

    async def ping(self) -> None:
        """Return if the broker answers, raise BrokerUnavailable if not."""

    async def counts(self) -> dict[str, float]:
        """The fleet's counters, by name: `started|job|queue|`, `finished|job|queue|outcome`, `enqueued|job|queue|`.

        And `wait|job|queue|n`, `duration|job|queue|n`: how many fell into bucket n, from 1; with n = `sum`: seconds.
        """

    async def close(self) -> None:
        """Close the connections of this event loop; the engine opens them again when it is asked again."""


async def promptly(call: Awaitable[Answer]) -> Answer:
    """Await one engine call. Raises BrokerUnavailable if it takes longer than `ANSWER_WITHIN`."""
    try:
        async with asyncio.timeout(ANSWER_WITHIN):
            return await call
    except TimeoutError:
        raise BrokerUnavailable(
            f"The broker did not answer within {ANSWER_WITHIN} s. Try again later; a submission may have arrived, "
            "so repeat it under the same idempotency key."
        ) from None


async def follow(engine: Engine, status: JobStatus) -> AsyncIterator[JobStatus]:
    """Yield a job's status as it is now and at each change, the final one last; an outage of the broker only pauses it.

    Raises UnknownJob if the job's record expires meanwhile.
    """
    yield status
    while status.state not in FINAL:
        await asyncio.sleep(POLL_EVERY)
        try:
            latest = await promptly(engine.status(status.id))
        except BrokerUnavailable:
            continue
        if latest != status:
            status = latest
            yield status
