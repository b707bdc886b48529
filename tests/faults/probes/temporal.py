"""Jobs that the tests of faults submit."""

import asyncio
import json
import time
import urllib.request

from ..runtime import (  # ty: ignore[import-not-found]
    PermanentError,
    RetryPolicy,
    Snooze,
    TransientError,
    current_job,
    job,
)
from ..settings import settings  # ty: ignore[import-not-found]
from .endings import end
from .probes import attempt, effects, tell  # ty: ignore[import-not-found]


def tell_blocking(label: str, **more: object) -> None:
    """The same as `tell`, from a thread."""
    running = current_job()
    assert running
    about = {"label": label, "at": time.time(), "id": running.id, "attempt": running.attempt, **more}
    request = urllib.request.Request(
        f"{settings().payment_gateway_url}/effects", json.dumps(about).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request, timeout=10).read()


@job(queue="default", retry=None)
async def ends(kind: str, label: str, seconds: float = 0) -> object:
    """Say that it started, work, and end as this kind does."""
    await tell(label)
    await asyncio.sleep(seconds)
    return end(kind)


@job(queue="default", retry=None)
def ends_in_a_thread(kind: str, label: str, seconds: float = 0) -> object:
    """The same as a plain function."""
    tell_blocking(label)
    time.sleep(seconds)
    return end(kind)


@job(queue="default", retry=RetryPolicy(attempts=3, base=0.1, cap=0.2), no_key_because="it only reports")
async def ends_retried(kind: str, label: str, seconds: float = 0) -> object:
    """The same with a retry policy, which retries what may pass."""
    await tell(label)
    await asyncio.sleep(seconds)
    return end(kind)


def how_it_goes_on(how: str, runs: int) -> None:
    if how == "fails":
        raise PermanentError("it fails")
    if how == "retries" and attempt() == 1:
        raise TransientError("try again", retry_after=0.5)
    if how == "snoozes" and runs == 1:
        raise Snooze(0.5)


@job(queue="default", retry=RetryPolicy(attempts=3, base=0.1, cap=0.2), no_key_because="it only reports")
async def lasts(label: str, seconds: float, how: str) -> str:
    """Work for so long, and only then succeed, fail, ask for a retry or snooze."""
    await tell(label)
    await asyncio.sleep(seconds)
    how_it_goes_on(how, len(await effects(label)))
    await tell(f"{label} end")
    return label


@job(queue="default", retry=RetryPolicy(attempts=3, base=0.1, cap=0.2), no_key_because="it only reports")
def lasts_in_a_thread(label: str, seconds: float, how: str) -> str:
    """The same as a plain function."""
    tell_blocking(label)
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        time.sleep(0.1)
    with urllib.request.urlopen(f"{settings().payment_gateway_url}/effects?label={label}", timeout=10) as answer:
        how_it_goes_on(how, len(json.load(answer)))
    tell_blocking(f"{label} end")
    return label


@job(queue="default", retry=None, soft_limit=1, hard_limit=2)
def never_ends(label: str) -> None:
    """Wait in a call that nothing interrupts."""
    time.sleep(3600)


async def leave() -> None:
    """Raise what ends an event loop."""
    raise SystemExit(3)


@job(queue="default", retry=None)
async def ends_the_loop(how: str) -> None:
    """From a task that is awaited, from a callback, or by its own method."""
    if how == "task":
        await asyncio.create_task(leave())
    loop = asyncio.get_running_loop()
    loop.call_soon(exit, 3) if how == "callback" else loop.stop()
    await asyncio.sleep(0.5)
