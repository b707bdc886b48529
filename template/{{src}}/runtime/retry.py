"""Retry what may pass, give up on what will not: transient errors wait longer each time, with full jitter, and end.

Without a cap a job retries for hours; without jitter all callers of a service that comes back call at once; without
classes a declined card is tried five times.
"""

import random
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from .bounds import YEAR
from .errors import shorten

Reason = Literal["exhausted", "permanent", "unexpected", "timed out", "poison"]


class TransientError(Exception):
    """May succeed later. `retry_after` in seconds, when the other side said how long to wait, is waited at least."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentError(Exception):
    """Will never succeed with this payload: straight to the dead letters."""


class PoisonError(Exception):
    """The job killed its worker too often."""


class TimedOut(Exception):
    """The job ran longer than its limit."""


class Snooze(Exception):
    """Run this job again in `delay` seconds; not a failure, and no attempt is spent.

    A time that has passed is at once. Raises ValueError for a delay that is no number, or more than a year.
    """

    def __init__(self, delay: float, why: str = "") -> None:
        if not delay <= YEAR:
            raise ValueError(f"Snooze({delay:g}): a delay is at most {YEAR} seconds")
        super().__init__(shorten(why) or f"again in {delay:g} s")
        self.delay = max(delay, 0)
        self.why = shorten(why)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Up to `attempts` runs; before run n+1 wait a random time up to min(cap, base · 2ⁿ⁻¹) seconds ("full jitter", AWS
    Architecture Blog, "Exponential Backoff And Jitter"). `unknown` says what an error of another class means."""

    attempts: int = 5
    base: float = 1.0
    cap: float = 300.0
    transient: tuple[type[BaseException], ...] = (TransientError, ConnectionError, TimeoutError)
    unknown: Literal["fail", "retry"] = "fail"

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 < self.base <= self.cap:
            raise ValueError(f"{self} makes no sense: attempts must be at least 1, and 0 < base <= cap")

    def delay(self, attempt: int, error: BaseException) -> float:
        """Seconds to wait after this attempt (the first is 1) failed."""
        wait = random.uniform(0, min(self.cap, self.base * 2.0 ** min(attempt - 1, 64)))
        asked: Any = getattr(error, "retry_after", None)
        with suppress(TypeError, ValueError, OverflowError):  # a header may hold a date, or anything
            if (seconds := float(asked)) >= 0:
                wait += min(seconds, float(YEAR))  # to a thousand callers it was the same time
        return wait

    def decide(self, attempt: int, error: BaseException) -> float | Reason:
        """Seconds until the next attempt, or the reason to give up."""
        if isinstance(error, PoisonError):
            return "poison"
        if isinstance(error, TimedOut):
            return "timed out"
        if isinstance(error, PermanentError):
            return "permanent"
        if not isinstance(error, self.transient) and self.unknown == "fail":
            return "unexpected"
        return self.delay(attempt, error) if attempt < self.attempts else "exhausted"


NO_RETRY = RetryPolicy(attempts=1, transient=())
