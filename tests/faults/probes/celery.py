"""Jobs that the tests of faults submit."""

import time
import warnings

from celery.exceptions import Ignore, Reject, Retry  # ty: ignore[import-not-found]

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


SURROGATE = "half an emoji \ud83d, and \x00"


@job(queue="default", retry=RetryPolicy(attempts=3, base=0.1, cap=0.2), no_key_because="it only reports")
def says(label: str, how: str) -> str:
    """Give a text that cannot be encoded, and megabytes of it, to each way to report there is; then succeed."""
    tell(label)
    text, first = SURROGATE + "x" * 5_000_000, len(effects(label)) == 1
    if how == "progress":
        progress(stage=text, message=text)
    if how == "retry" and first:
        raise TransientError(text, retry_after=0.1)
    if how == "snooze" and first:
        raise Snooze(0.1, text)
    return label


@job(queue="default", retry=RetryPolicy(attempts=3, base=0.1, cap=0.2), no_key_because="it only reports")
def wishes(label: str, kind: str) -> str:
    """Raise one of Celery's own exceptions, at first."""
    tell(label)
    first = len(effects(label)) == 1
    if kind == "ignore":
        raise Ignore("not needed")
    if kind == "reject":
        raise Reject("not mine", requeue=False)
    if kind == "reject and requeue" and first:
        raise Reject("not now", requeue=True)
    if kind == "retry()" and first:
        raise wishes.retry(countdown=0.1)
    if kind == "bare Retry" and first:
        raise Retry("not now", when=0.1)
    if kind == "warning":
        warnings.simplefilter("error")
        try:
            warnings.warn("as an error", stacklevel=1)
        finally:
            warnings.resetwarnings()
    return label


@job(queue="default", retry=None)
def holds(label: str, until_effect: str) -> str:
    """Work until an effect of this label is there; then one more, and the end."""
    tell(label)
    while not effects(until_effect):
        time.sleep(0.1)
    tell(f"{label} end")
    return label


@job(queue="default", retry=None)
def echoes(value: object) -> object:
    """What it was given."""
    return value
