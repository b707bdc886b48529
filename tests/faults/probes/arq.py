"""Jobs that the tests of faults submit."""

import asyncio

from ..runtime import RetryPolicy, job  # ty: ignore[import-not-found]
from .endings import end
from .probes import tell  # ty: ignore[import-not-found]
from .resources import Context  # ty: ignore[import-not-found]


@job(queue="default", retry=None)
async def ends(ctx: Context, kind: str, label: str, seconds: float = 0) -> object:
    """Say that it started, work, and end as this kind does."""
    await tell(ctx, label)
    await asyncio.sleep(seconds)
    return end(kind)


@job(queue="default", retry=RetryPolicy(attempts=3, base=0.1, cap=0.2), no_key_because="it only reports")
async def ends_retried(ctx: Context, kind: str, label: str, seconds: float = 0) -> object:
    """The same with a retry policy, which retries what may pass."""
    await tell(ctx, label)
    await asyncio.sleep(seconds)
    return end(kind)
