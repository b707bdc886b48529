"""A rate limit for the whole fleet: one token bucket in Redis, asked in one atomic call.

Celery's `rate_limit` counts per worker, so that scaling out raises it; a bucket that retries when empty burns the job's
attempts. Here a job that must wait is snoozed until a token is there.
"""

import math
from dataclasses import dataclass

from .connection import redis
from .retry import Snooze

# KEYS: bucket. ARGV: rate per second, burst. Returns seconds to wait, as text ('0' = token taken). The server's clock counts.
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


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """At most `burst` at once and `rate` per second over time, shared by all workers under `name`."""

    name: str
    rate: float
    burst: int = 1

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.burst < 1:
            raise ValueError(f"{self}: rate must be above 0 and burst at least 1")

    def try_acquire(self) -> float:
        """Take a token and return 0.0, or return the seconds until one is there."""
        return float(redis().eval(TAKE, 1, f"limit:{self.name}", self.rate, self.burst))

    def acquire(self) -> None:
        """Take a token, or run this job again when there is one, without spending a try."""
        if wait := self.try_acquire():
            raise Snooze(math.ceil(wait * 100) / 100, f"rate limit {self.name}")
