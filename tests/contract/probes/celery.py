"""Jobs that the contract tests submit: each shows one promise, and tells the payment gateway what it did."""

import json
import os
import signal
import time
import urllib.request
from datetime import timedelta

from pydantic import BaseModel

from ..runtime import (  # ty: ignore[import-not-found]
    PermanentError,
    RetryPolicy,
    Schedule,
    Snooze,
    TokenBucket,
    TransientError,
    chain,
    chord,
    current_job,
    job,
    progress,
)
from ..settings import settings  # ty: ignore[import-not-found]

TWICE = RetryPolicy(attempts=2, base=0.1, cap=0.2)
SEVERAL = RetryPolicy(attempts=4, base=0.2, cap=1.0)
ANYTHING = RetryPolicy(attempts=4, base=0.2, cap=1.0, unknown="retry")
BUCKET = TokenBucket("probes", rate=4, burst=1)


def post(path: str, body: dict[str, object], key: str = "") -> None:
    request = urllib.request.Request(
        f"{settings().payment_gateway_url}{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Idempotency-Key": key},
    )
    urllib.request.urlopen(request, timeout=10).read()


def attempt() -> int:
    running = current_job()
    return running.attempt if running else 0


def tell(label: str, **more: object) -> None:
    """One more entry in the gateway's /effects, with the time and the job that it comes from."""
    running = current_job()
    assert running
    post("/effects", {"label": label, "at": time.time(), "id": running.id, "attempt": running.attempt, **more})


class Effect(BaseModel):
    key: str
    seconds: float = 0
    after: float = 0


@job(queue="default", retry=SEVERAL, idempotency_key=lambda effect: effect.key)
def effect(effect: Effect) -> str:
    """Work, charge once, work on."""
    tell(f"start {effect.key}")
    time.sleep(effect.seconds)
    running = current_job()
    assert running
    post("/charges", {"order_id": effect.key}, key=running.idempotency_key or "")
    time.sleep(effect.after)
    return effect.key


@job(queue="default", retry=None)
def noop() -> None:
    """Nothing."""


@job(queue="default", retry=None)
def mark(label: str, seconds: float = 0) -> str:
    """Say that it started, then work."""
    tell(label)
    time.sleep(seconds)
    return label


@job(queue="default", retry=None)
def family(label: str) -> None:
    """Send others in each way there is."""
    mark.submit(f"{label} one")
    chain(mark.si(f"{label} first"), mark.si(f"{label} second")).apply_async()
    chord([mark.si(f"{label} part") for _ in range(2)], mark.si(f"{label} then")).apply_async()


@job(queue="default", retry=None)
def steps(seconds: float) -> str:
    """Three stages of two steps."""
    for stage in ("VALIDATING", "PROCESSING", "UPLOADING"):
        for done in range(2):
            progress(stage=stage, done=done + 1, total=2, message=f"{stage.lower()} {done + 1}")
            time.sleep(seconds)
    return "uploaded"


@job(queue="default", retry=SEVERAL, no_key_because="it only tells")
def flaky(label: str, times: int) -> int:
    """Fail so many times as if the network did, then succeed."""
    tell(label)
    if attempt() <= times:
        raise TransientError(f"{label}: no answer")
    return attempt()


@job(queue="default", retry=TWICE, no_key_because="it only tells")
def told_to_wait(label: str, seconds: float) -> None:
    """Be refused once with Retry-After."""
    tell(label)
    if attempt() == 1:
        raise TransientError("429 too many requests", retry_after=seconds)


@job(queue="default", retry=ANYTHING, no_key_because="it only tells")
def permanent(label: str) -> None:
    """Fail in a way that no retry mends."""
    tell(label)
    raise PermanentError(f"{label}: card expired")


@job(queue="default", retry=SEVERAL, no_key_because="it only tells")
def unexpected(label: str) -> None:
    """A bug."""
    tell(label)
    raise ZeroDivisionError(f"{label}: nobody thought of this")


@job(queue="default", retry=TWICE, no_key_because="it only tells")
def snoozing(label: str, times: int) -> None:
    """Come back later more often than there are attempts."""
    tell(label)
    if len(effects(label)) <= times:
        raise Snooze(0.2)


@job(queue="default", retry=TWICE, no_key_because="it only tells")
def limited(label: str) -> None:
    """Four a second in the whole fleet."""
    BUCKET.acquire()
    tell(label)


@job(queue="default", retry=None, singleton="wait")
def exclusive(label: str, seconds: float) -> None:
    """Never two at once; the second waits."""
    tell(label, step="start")
    time.sleep(seconds)
    tell(label, step="end")


@job(queue="default", retry=None, singleton="skip")
def exclusive_or_not(label: str, seconds: float) -> None:
    """Never two at once; the second is not needed."""
    tell(label)
    time.sleep(seconds)


@job(queue="default", retry=None, soft_limit=2, hard_limit=3)
def overrun(label: str, deaf: bool) -> None:
    """Work for ever; a deaf one does not hear its soft limit either."""
    tell(label)
    while True:
        try:
            time.sleep(60)
        except Exception:
            if not deaf:
                raise


@job(queue="default", retry=None)
def poison(label: str) -> None:
    """Kill the process it runs in."""
    tell(label)
    os.kill(os.getpid(), signal.SIGKILL)


@job(queue="default", retry=None)
def poison_worker(label: str) -> None:
    """Kill the whole worker."""
    tell(label)
    os.killpg(os.getpgid(0), signal.SIGKILL)


@job(queue="default", retry=None)
def big(size: int) -> str:
    """A result of so many bytes."""
    return "x" * size


@job(queue="default", retry=None)
def unserialisable() -> object:
    """A result that is no JSON."""
    return object()


@job(queue="default", retry=None)
def tick() -> None:
    """What the schedule of the tests runs."""
    tell("tick")


SCHEDULES = [Schedule("tick", tick, timedelta(seconds=2))]


def effects(label: str) -> list[dict[str, object]]:
    with urllib.request.urlopen(f"{settings().payment_gateway_url}/effects?label={label}", timeout=10) as answer:
        return json.load(answer)
