"""How long a caller waits for the engine: briefly for an answer, to the end for a job.

A broker that is frozen rather than gone keeps connections open and answers nothing; without a limit of our own every
request and every command would hang with it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from .contract import FINAL, BrokerUnavailable, Engine, JobStatus

ANSWER_WITHIN = 2.5
"""Seconds; leaves time to tell the caller within the promised 3 s."""

POLL_EVERY = 0.25
"""Seconds between two looks at a job that is being followed."""

Answer = TypeVar("Answer")


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
