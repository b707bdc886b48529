"""Jobs that the tests of faults submit."""

import asyncio

from ..runtime import PermanentError, RetryPolicy, Snooze, TransientError, job  # ty: ignore[import-not-found]
from .endings import end
from .probes import attempt, effects, tell  # ty: ignore[import-not-found]
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


@job(queue="default", retry=RetryPolicy(attempts=3, base=0.1, cap=0.2), no_key_because="it only reports")
async def lasts(ctx: Context, label: str, seconds: float, how: str) -> str:
    """Work for so long, and only then succeed, fail, ask for a retry or snooze."""
    await tell(ctx, label)
    await asyncio.sleep(seconds)
    if how == "fails":
        raise PermanentError("it fails")
    if how == "retries" and attempt() == 1:
        raise TransientError("try again", retry_after=0.5)
    if how == "snoozes" and len(await effects(ctx, label)) == 1:
        raise Snooze(0.5)
    await tell(ctx, f"{label} end")
    return label
