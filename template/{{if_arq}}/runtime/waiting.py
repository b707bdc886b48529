"""Wait without spending a try: for a rate limit, for a lock, for the next poll.

A job that retries while it waits burns its attempts and ends as a dead letter although nothing failed; one that sleeps
holds a slot. Here it snoozes: it goes back to its queue, due later.
"""

import math
import random
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NoReturn

from ..settings import settings
from .connection import patiently, redis
from .progress import current_job
from .record import job_key, records
from .retry import Snooze

BUCKET = (files(__package__ or "") / "bucket.lua").read_text(encoding="utf-8")
LOOKS = 10  # a second, of all who wait for one lock
# KEYS: lock, when the last of its waiters looks. ARGV: owner, ttl in ms, seconds to wait. Returns seconds to wait, '0'
# if the lock was taken. However many wait, together they look LOOKS times a second, by the server's clock.
LOCK = """
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) or redis.call('GET', KEYS[1]) == ARGV[1] then return '0' end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local look = math.max(now + ARGV[3], (redis.call('GET', KEYS[2]) or 0) + 1 / ARGV[4])
redis.call('SET', KEYS[2], look, 'PX', math.ceil((look - now) * 1000) + 1000)
return tostring(look - now)
"""
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


async def _ask(script: Callable[..., Awaitable[Any]], keys: list[str], values: list[Any]) -> Any:
    """A job waits for Redis, or its run would end for nothing; any other caller gets the error."""
    return await (patiently(lambda: script(keys, values)) if current_job() else script(keys, values))


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """A rate limit for the fleet: at most `burst` at once and `rate` per second over time, shared under `name`.

    A job that must wait reserves the next token and runs again when that is there: however many wait, `rate` of them
    are woken a second. Each `acquire()` of a run costs a token, in its next run again; a run that acquires more often
    than `burst` gets its tokens together, when the last of them is there.
    """

    name: str
    rate: float
    burst: int = 1

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.burst < 1:
            raise ValueError(f"{self}: rate must be above 0 and burst at least 1")

    async def try_acquire(self) -> float:
        """Take a token and return 0.0, or return the seconds until one is there; reserves none."""
        return await self._take("")

    async def acquire(self) -> None:
        """Take a token, or run this job again when the one that this reserves is there. Raises Snooze."""
        job = current_job()
        if wait := await self._take(job_key(job.id) if job else ""):
            raise Snooze(math.ceil(wait * 100) / 100, f"rate limit {self.name}")

    async def _take(self, record: str) -> float:
        keys = [f"limit:{self.name}", f"slots:{self.name}", record]
        return float(await _ask(redis().register_script(BUCKET), keys, [self.rate, self.burst, self.name]))


@asynccontextmanager
async def lock(name: str, *, ttl: float | None = None, wait: float = 2.0) -> AsyncGenerator[None]:
    """Hold `name` for the block; only who took it releases it. If another holds it, the job runs again in `wait` s,
    or later if many wait: together they look LOOKS times a second.

    `ttl` in seconds, by default `lock_ttl`, must be above the hard limit, since nobody renews this lock: ValueError
    if not. For "only one of this job at a time" use `@job(singleton=…)`, whose lock the worker renews.
    """
    ttl = settings().lock_ttl if ttl is None else ttl
    if ttl <= settings().hard_limit:
        raise ValueError(f"lock {name!r}: ttl={ttl:g} must be above HARD_LIMIT={settings().hard_limit:g}")
    key, token = f"lock:user:{name}", uuid.uuid4().hex
    look = [token, int(ttl * 1000), wait, LOOKS]
    if pause := float(await _ask(redis().register_script(LOCK), [key, f"look:{key}"], look)):
        raise Snooze(pause, f"waiting for lock {name}")
    try:
        yield
    finally:
        await _ask(redis().register_script(RELEASE), [key], [token])


@dataclass(frozen=True, slots=True)
class AdaptivePoll:
    """Ask every `base` seconds after activity, doubling up to `cap` while idle.

    A poll that submits its successor forks into two loops when it is redelivered. This is one job with one id that
    snoozes; a schedule with a fixed `key` starts it, and starts it again should it ever have ended. An interval is up
    to a tenth longer, at random, so that polls that began together do not ask together.
    """

    base: float = 30.0
    cap: float = 300.0

    async def again(self, *, active: bool) -> NoReturn:
        """End this run; the next one comes after the interval. Raises Snooze."""
        job = current_job()
        if job is None:
            raise RuntimeError("AdaptivePoll.again() is for running jobs")
        last = float(await patiently(lambda: records().field(job.id, "poll_interval")) or self.base / 2)
        interval = self.base if active else min(self.cap, 2 * last)
        await patiently(lambda: records().update(job.id, poll_interval=interval, polls=job.polls + 1))
        raise Snooze(interval * random.uniform(1, 1.1), f"next poll in {interval:g} s")
