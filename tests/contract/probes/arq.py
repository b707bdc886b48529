"""Jobs that the contract tests submit: each shows one promise, and tells the payment gateway what it did."""

import asyncio
import os
import signal
import time
from datetime import timedelta

from pydantic import BaseModel

from ..runtime import (  # ty: ignore[import-not-found]
    AdaptivePoll,
    Outcome,
    PermanentError,
    RetryPolicy,
    Schedule,
    Snooze,
    TokenBucket,
    TransientError,
    chain,
    current_job,
    group,
    job,
    progress,
)
from ..settings import settings  # ty: ignore[import-not-found]
from .resources import Context  # ty: ignore[import-not-found]

TWICE = RetryPolicy(attempts=2, base=0.1, cap=0.2)
SEVERAL = RetryPolicy(attempts=4, base=0.2, cap=1.0)
ANYTHING = RetryPolicy(attempts=4, base=0.2, cap=1.0, unknown="retry")
BUCKET = TokenBucket("probes", rate=4, burst=1)


async def post(ctx: Context, path: str, body: dict[str, object], key: str = "") -> None:
    url = f"{settings().payment_gateway_url}{path}"
    (await ctx["http"].post(url, json=body, headers={"Idempotency-Key": key})).raise_for_status()


def attempt() -> int:
    running = current_job()
    return running.attempt if running else 0


async def tell(ctx: Context, label: str, **more: object) -> None:
    """One more entry in the gateway's /effects, with the time and the job that it comes from."""
    running = current_job()
    assert running
    about = {"label": label, "at": time.time(), "id": running.id, "attempt": running.attempt}
    await post(ctx, "/effects", {**about, **more})


async def effects(ctx: Context, label: str) -> list[dict[str, object]]:
    """What the gateway knows under this label."""
    return (await ctx["http"].get(f"{settings().payment_gateway_url}/effects", params={"label": label})).json()


class Effect(BaseModel):
    key: str
    seconds: float = 0
    after: float = 0


@job(queue="default", retry=SEVERAL, idempotency_key=lambda effect: effect.key)
async def effect(ctx: Context, effect: Effect) -> str:
    """Work, charge once, work on."""
    await tell(ctx, f"start {effect.key}")
    await asyncio.sleep(effect.seconds)
    running = current_job()
    assert running
    await post(ctx, "/charges", {"order_id": effect.key}, key=running.idempotency_key or "")
    await asyncio.sleep(effect.after)
    return effect.key


@job(queue="default", retry=None)
async def noop(ctx: Context) -> None:
    """Nothing."""


beside = 0


@job(queue="default", retry=None)
async def crowd(ctx: Context) -> int:
    """How many of these run in this process, itself included."""
    global beside
    beside += 1
    try:
        found = beside
        await asyncio.sleep(0.02)
        return found
    finally:
        beside -= 1


@job(queue="default", retry=None)
async def mark(ctx: Context, label: str, seconds: float = 0) -> str:
    """Say that it started, then work."""
    await tell(ctx, label)
    await asyncio.sleep(seconds)
    return label


@job(queue="default", retry=None)
async def gathered(ctx: Context, parts: list[Outcome[str]], label: str) -> None:
    """What comes after a group."""
    await tell(ctx, label)


@job(queue="default", retry=None)
async def family(ctx: Context, label: str) -> None:
    """Send others in each way there is."""
    await mark.submit(f"{label} one")
    await chain(mark.call(f"{label} first"), mark.call(f"{label} second"))
    await group([mark.call(f"{label} part") for _ in range(2)], gathered, f"{label} then")


@job(queue="default", retry=None)
async def steps(ctx: Context, seconds: float) -> str:
    """Three stages of two steps."""
    for stage in ("VALIDATING", "PROCESSING", "UPLOADING"):
        for done in range(2):
            await progress(stage=stage, done=done + 1, total=2, message=f"{stage.lower()} {done + 1}")
            await asyncio.sleep(seconds)
    return "uploaded"


@job(queue="default", retry=SEVERAL, no_key_because="it only tells")
async def flaky(ctx: Context, label: str, times: int) -> int:
    """Fail so many times as if the network did, then succeed."""
    await tell(ctx, label)
    if attempt() <= times:
        raise TransientError(f"{label}: no answer")
    return attempt()


@job(queue="default", retry=TWICE, no_key_because="it only tells")
async def told_to_wait(ctx: Context, label: str, seconds: float) -> None:
    """Be refused once with Retry-After."""
    await tell(ctx, label)
    if attempt() == 1:
        raise TransientError("429 too many requests", retry_after=seconds)


@job(queue="default", retry=ANYTHING, no_key_because="it only tells")
async def permanent(ctx: Context, label: str) -> None:
    """Fail in a way that no retry mends."""
    await tell(ctx, label)
    raise PermanentError(f"{label}: card expired")


@job(queue="default", retry=SEVERAL, no_key_because="it only tells")
async def unexpected(ctx: Context, label: str) -> None:
    """A bug."""
    await tell(ctx, label)
    raise ZeroDivisionError(f"{label}: nobody thought of this")


@job(queue="default", retry=TWICE, no_key_because="it only tells")
async def snoozing(ctx: Context, label: str, times: int) -> None:
    """Come back later more often than there are attempts."""
    await tell(ctx, label)
    if len(await effects(ctx, label)) <= times:
        raise Snooze(0.2)


@job(queue="default", retry=TWICE, no_key_because="it only tells")
async def limited(ctx: Context, label: str) -> None:
    """Four a second in the whole fleet."""
    await BUCKET.acquire()
    await tell(ctx, label)


@job(queue="default", retry=None, singleton="wait")
async def exclusive(ctx: Context, label: str, seconds: float) -> None:
    """Never two at once; the second waits."""
    await tell(ctx, label, step="start")
    await asyncio.sleep(seconds)
    await tell(ctx, label, step="end")


@job(queue="default", retry=None, singleton="skip")
async def exclusive_or_not(ctx: Context, label: str, seconds: float) -> None:
    """Never two at once; the second is not needed."""
    await tell(ctx, label)
    await asyncio.sleep(seconds)


@job(queue="default", retry=None, soft_limit=2, hard_limit=3)
async def overrun(ctx: Context, label: str, deaf: bool) -> None:
    """Work for ever; a deaf one does not hear its soft limit either."""
    await tell(ctx, label)
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if not deaf:
                raise


@job(queue="default", retry=None)
async def poison(ctx: Context, label: str) -> None:
    """Kill the process it runs in, when those beside it have ended: they would be lost with it, and run again."""
    await tell(ctx, label)
    await asyncio.sleep(4)
    os.kill(os.getpid(), signal.SIGKILL)


@job(queue="default", retry=None)
async def poison_worker(ctx: Context, label: str) -> None:
    """Kill the whole worker."""
    await tell(ctx, label)
    os.killpg(os.getpgid(0), signal.SIGKILL)


@job(queue="default", retry=None)
async def big(ctx: Context, size: int) -> str:
    """A result of so many bytes."""
    return "x" * size


@job(queue="default", retry=None)
async def unserialisable(ctx: Context) -> object:
    """A result that is no JSON."""
    return object()


@job(queue="default", retry=None)
async def tick(ctx: Context) -> None:
    """What the schedule of the tests runs."""
    await tell(ctx, "tick")


SCHEDULES = [Schedule("tick", tick, timedelta(seconds=2))]


# For test_arq.py alone


class Unspeakable(Exception):
    """Neither pickle nor JSON can carry it, and it has no words either."""

    def __init__(self, first: object, second: object) -> None:
        super().__init__(first, second)

    def __str__(self) -> str:
        raise RuntimeError("no words")


@job(queue="default", retry=None)
async def unspeakable(ctx: Context) -> None:
    """Fail with an exception that cannot be serialised."""
    raise Unspeakable(object(), lambda: None)


@job(queue="default", retry=None)
async def blocks(ctx: Context, label: str, seconds: float) -> str:
    """Hold up the event loop, as careless code does."""
    await tell(ctx, label)
    time.sleep(seconds)  # doctor: ok
    return label


@job(queue="default", retry=None)
async def rounds(ctx: Context, label: str) -> None:
    """A poll that starts a workflow in each of its rounds."""
    await chain(mark.call(label))
    await AdaptivePoll(base=0.2, cap=0.2).again(active=True)


@job(queue="default", retry=None)
async def three_steps(ctx: Context, label: str) -> str:
    """A chain whose second step fails for good. Returns the id of the last."""
    return await chain(mark.call(f"{label} 1"), permanent.call(f"{label} 2"), mark.call(f"{label} 3"))
