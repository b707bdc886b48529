"""Wait without spending a try: for a rate limit, for a lock, for the next poll.

A job that retries while it waits burns its attempts and ends as a dead letter although nothing failed. Here it
snoozes: its message goes back to the broker, due later, and a second copy of it is dropped.
"""

import math
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from ..settings import settings
from .connection import redis
from .progress import current_job
from .record import records
from .retry import Snooze

# KEYS: bucket. ARGV: rate per second, burst. Answers seconds to wait ('0': token taken), by the server's clock.
TAKE = """
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local tokens, at = unpack(redis.call('HMGET', KEYS[1], 'tokens', 'at'))
tokens = math.min(burst, (tonumber(tokens) or burst) + math.max(0, now - (tonumber(at) or now)) * rate)
local wait = 0
if tokens >= 1 then tokens = tokens - 1 else wait = (1 - tokens) / rate end
redis.call('HSET', KEYS[1], 'tokens', tokens, 'at', now)
redis.call('PEXPIRE', KEYS[1], math.ceil(burst / rate * 1000) + 1000)
return tostring(wait)
"""
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """A rate limit for the whole fleet: at most `burst` at once and `rate` per second over time, shared under `name`.

    Celery's `rate_limit` counts per worker process, so that scaling out raises it.
    """

    name: str
    rate: float
    burst: int = 1

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.burst < 1:
            raise ValueError(f"{self}: rate must be above 0 and burst at least 1")

    def try_acquire(self) -> float:
        """Take a token and return 0.0, or return the seconds until one is there."""
        return float(str(redis().eval(TAKE, 1, f"limit:{self.name}", self.rate, self.burst)))

    def acquire(self) -> None:
        """Take a token, or run this job again when there is one."""
        if wait := self.try_acquire():
            raise Snooze(math.ceil(wait * 100) / 100, f"rate limit {self.name}")


@contextmanager
def lock(name: str, *, ttl: float | None = None, wait: float = 2.0) -> Generator[None]:
    """Hold `name` for the block; only who took it releases it. If another holds it, the job runs again in `wait` s.

    `ttl` in seconds, by default `lock_ttl`, must be above the hard limit, since nobody renews this lock: ValueError
    if not. For "only one of this job at a time" use `@job(singleton=…)`, whose lock the worker renews.
    """
    ttl = settings().lock_ttl if ttl is None else ttl
    if ttl <= settings().hard_limit:
        raise ValueError(f"lock {name!r}: ttl={ttl:g} must be above HARD_LIMIT={settings().hard_limit:g}")
    key, token = f"lock:user:{name}", uuid.uuid4().hex
    if not redis().set(key, token, nx=True, px=int(ttl * 1000)):
        raise Snooze(wait, f"waiting for lock {name}")
    try:
        yield
    finally:
        redis().eval(RELEASE, 1, key, token)


@dataclass(frozen=True, slots=True)
class AdaptivePoll:
    """Ask every `base` seconds after activity, doubling up to `cap` while idle.

    A poll that submits its successor forks into two loops when it is redelivered. This is one job with one id that
    snoozes; a schedule with a fixed `key` starts it, and starts it again should it ever have ended.
    """

    base: float = 30.0
    cap: float = 300.0

    def again(self, *, active: bool) -> NoReturn:
        """End this run; the next one comes after the interval. Raises Snooze."""
        job = current_job()
        if job is None:
            raise RuntimeError("AdaptivePoll.again() is for running jobs")
        last = float(records().field(job.id, "poll_interval") or self.base / 2)
        interval = self.base if active else min(self.cap, 2 * last)
        records().update(job.id, poll_interval=interval)
        raise Snooze(interval, f"next poll in {interval:g} s")
