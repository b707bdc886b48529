"""Jobs that the tests of faults submit."""

import asyncio

from ..runtime import (  # ty: ignore[import-not-found]
    AdaptivePoll,
    PermanentError,
    RetryPolicy,
    Snooze,
    TokenBucket,
    TransientError,
    current_job,
    job,
    lock,
)
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


@job(queue="default", retry=None)
async def metered(ctx: Context, bucket: str, rate: float, burst: int = 1, times: int = 1) -> None:
    """Acquire tokens, one after the other, and say so of each."""
    for _ in range(times):
        await TokenBucket(bucket, rate, burst).acquire()
        await tell(ctx, bucket)


@job(queue="default", retry=None)
async def metered_by_two(ctx: Context, first: str, second: str, rate: float) -> None:
    """Acquire a token of each of two buckets, and say so."""
    await TokenBucket(first, rate).acquire()
    await TokenBucket(second, rate).acquire()
    await tell(ctx, f"{first} {second}")


@job(queue="default", retry=RetryPolicy(attempts=3, base=0.1, cap=0.2), no_key_because="it only reports")
async def metered_and_failing(ctx: Context, bucket: str, rate: float, failures: int) -> None:
    """Acquire a token, say so, and fail so many times."""
    await TokenBucket(bucket, rate).acquire()
    await tell(ctx, bucket)
    running = current_job()
    if running and running.attempt <= failures:
        raise TransientError("no answer")


@job(queue="default", retry=None)
async def locked(ctx: Context, name: str, seconds: float) -> None:
    """Hold a lock for a while."""
    async with lock(name, wait=0.5):
        await tell(ctx, f"start {name}")
        await asyncio.sleep(seconds)
        await tell(ctx, f"end {name}")


@job(queue="default", retry=None, singleton="wait")
async def alone(ctx: Context, label: str, seconds: float) -> None:
    """Be the only one for a while."""
    await tell(ctx, f"start {label}")
    await asyncio.sleep(seconds)
    await tell(ctx, f"end {label}")


@job(queue="default", retry=None)
async def polls(ctx: Context, seconds: float) -> None:
    """Ask at this interval."""
    await AdaptivePoll(base=seconds, cap=seconds).again(active=True)


@job(queue="default", retry=RetryPolicy(attempts=2, base=10), no_key_because="it only fails")
async def refused(ctx: Context, retry_after: float) -> None:
    """Be refused, and asked to come back later."""
    raise TransientError("429 too many requests", retry_after=retry_after)
