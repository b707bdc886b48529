"""Jobs that the tests of faults submit."""

import time

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


@job(queue="default", retry=None)
def ends(kind: str, label: str, seconds: float = 0) -> object:
    """Say that it started, work, and end as this kind does."""
    tell(label)
    time.sleep(seconds)
    return end(kind)


@job(queue="default", retry=RetryPolicy(attempts=3, base=0.1, cap=0.2), no_key_because="it only reports")
def ends_retried(kind: str, label: str, seconds: float = 0) -> object:
    """The same with a retry policy, which retries what may pass."""
    tell(label)
    time.sleep(seconds)
    return end(kind)


@job(queue="default", retry=RetryPolicy(attempts=3, base=0.1, cap=0.2), no_key_because="it only reports")
def lasts(label: str, seconds: float, how: str) -> str:
    """Work for so long, and only then succeed, fail, ask for a retry or snooze."""
    tell(label)
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        time.sleep(0.1)
    if how == "fails":
        raise PermanentError("it fails")
    if how == "retries" and attempt() == 1:
        raise TransientError("try again", retry_after=0.5)
    if how == "snoozes" and len(effects(label)) == 1:
        raise Snooze(0.5)
    tell(f"{label} end")
    return label


@job(queue="default", retry=None)
def metered(bucket: str, rate: float, burst: int = 1, times: int = 1) -> None:
    """Acquire tokens, one after the other, and say so of each."""
    for _ in range(times):
        TokenBucket(bucket, rate, burst).acquire()
        tell(bucket)


@job(queue="default", retry=None)
def metered_by_two(first: str, second: str, rate: float) -> None:
    """Acquire a token of each of two buckets, and say so."""
    TokenBucket(first, rate).acquire()
    TokenBucket(second, rate).acquire()
    tell(f"{first} {second}")


@job(queue="default", retry=RetryPolicy(attempts=3, base=0.1, cap=0.2), no_key_because="it only reports")
def metered_and_failing(bucket: str, rate: float, failures: int) -> None:
    """Acquire a token, say so, and fail so many times."""
    TokenBucket(bucket, rate).acquire()
    tell(bucket)
    running = current_job()
    if running and running.attempt <= failures:
        raise TransientError("no answer")


@job(queue="default", retry=None)
def locked(name: str, seconds: float) -> None:
    """Hold a lock for a while."""
    with lock(name, wait=0.5):
        tell(f"start {name}")
        time.sleep(seconds)
        tell(f"end {name}")


@job(queue="default", retry=None, singleton="wait")
def alone(label: str, seconds: float) -> None:
    """Be the only one for a while."""
    tell(f"start {label}")
    time.sleep(seconds)
    tell(f"end {label}")


@job(queue="default", retry=None)
def polls(seconds: float) -> None:
    """Ask at this interval."""
    AdaptivePoll(base=seconds, cap=seconds).again(active=True)


@job(queue="default", retry=RetryPolicy(attempts=2, base=10), no_key_because="it only fails")
def refused(retry_after: float) -> None:
    """Be refused, and asked to come back later."""
    raise TransientError("429 too many requests", retry_after=retry_after)
