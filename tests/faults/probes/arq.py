"""Jobs that the tests of faults submit."""

import asyncio
import os
import sys
import time
from collections.abc import Callable

from arq import Retry  # ty: ignore[missing-module-member]

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
    progress,
)
from ..settings import settings  # ty: ignore[import-not-found]
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


@job(queue="default", retry=RetryPolicy(attempts=3, base=0.1, cap=0.2), no_key_because="it only reports")
async def asks_for_a_retry(ctx: Context, label: str, defer: float | None = None, times: int = 1) -> int:
    """Fail so many times as code for arq does."""
    await tell(ctx, label)
    if ctx["job_try"] <= times:
        raise Retry(defer=defer)
    return ctx["job_try"]


@job(queue="default", retry=None)
async def shows_its_context(ctx: Context, label: str) -> list[str]:
    """What arq's `ctx` holds."""
    await tell(ctx, label, hooks=ctx.get("hooks"))
    return sorted(str(name) for name in ctx)


@job(queue="default", retry=RetryPolicy(attempts=3, base=0.1, cap=0.2), no_key_because="it only reports")
async def answers_a_cancel(ctx: Context, label: str, how: str) -> None:
    """Work for long; when it is stopped raise something else."""
    await tell(ctx, label)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError as stop:
        errors = {"transient": TransientError("stopped"), "snooze": Snooze(0.1), "bug": ZeroDivisionError("stopped")}
        raise errors[how] from stop


@job(queue="default", retry=None)
async def exits_aside(ctx: Context, label: str, how: str) -> str:
    """Call sys.exit() in a task, a callback or a thread of this job."""
    await tell(ctx, label)
    if how == "task":
        await asyncio.create_task(_exit())
    elif how == "task group":
        async with asyncio.TaskGroup() as group:
            group.create_task(_exit())
    elif how == "forgotten task":
        asyncio.create_task(_exit())  # noqa: RUF006
        await asyncio.sleep(0.5)
    elif how == "callback":
        asyncio.get_running_loop().call_soon(sys.exit, 3)
        await asyncio.sleep(0.5)
    elif how == "stopped loop":
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0.5)
    else:
        await asyncio.to_thread(sys.exit, 3)
    return how


async def _exit() -> None:
    sys.exit(3)


SAYS: dict[str, Callable[[], Exception]] = {
    "snooze": lambda: Snooze(0.1, "half an emoji \ud83d"),
    "transient": lambda: TransientError("half an emoji \ud83d"),
    "not a number": lambda: Snooze(float("nan")),
    "endless": lambda: Snooze(float("inf")),
    "no number": lambda: Snooze("soon", "later"),  # type: ignore[arg-type]
    "retry after nan": lambda: TransientError("later", retry_after=float("nan")),
}


@job(queue="default", retry=RetryPolicy(attempts=2, base=0.1, cap=0.2), no_key_because="it only reports")
async def says(ctx: Context, label: str, what: str) -> int:
    """Ask to run again, with words and numbers that nobody can store; run for good the second time."""
    await tell(ctx, label)
    if len((await ctx["http"].get(f"{settings().payment_gateway_url}/effects", params={"label": label})).json()) > 1:
        return 2
    raise SAYS[what]()


@job(queue="default", retry=None)
async def reports(ctx: Context, label: str, message: str | None, done: float | None = None) -> None:
    """Report progress that a store may refuse."""
    await tell(ctx, label)
    await progress(message="half an emoji \ud83d" if message is None else message, done=done)


@job(queue="default", retry=None)
async def uses_up_descriptors(ctx: Context, label: str, seconds: float) -> int:
    """Open files until there are no descriptors left, and hold them."""
    await tell(ctx, label)
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        await asyncio.sleep(seconds)
    finally:
        for number in held:
            os.close(number)
    return len(held)


@job(queue="default", retry=None, soft_limit=2, hard_limit=3)
async def blocks_over_its_limit(ctx: Context, label: str) -> None:
    """Hold up the event loop for longer than the hard limit."""
    await tell(ctx, label)
    time.sleep(30)  # doctor: ok
