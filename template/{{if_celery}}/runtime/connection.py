"""One way to reach Redis or Valkey: bounded waits, verified TLS, Sentinel; so that a frozen server never hangs a
caller.
"""

import time
from collections.abc import Callable
from functools import cache
from typing import TypeVar

from kombu.exceptions import OperationalError
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, TimeoutError
from redis.retry import Retry
from redis.sentinel import Sentinel

from ..settings import settings
from . import refusals, sentinels

refusals.install()

UNAVAILABLE = (ConnectionError, TimeoutError, OperationalError, OSError)
CONNECT_TIMEOUT = 1.0  # seconds
REPLY_TIMEOUT = 2.0  # seconds; together below the 3 s in which the API answers

T = TypeVar("T")


def connect() -> Redis:
    """A new client for `settings().redis_url`; raises ValueError if that is not set."""
    url = settings().require_redis_url()
    options = {
        "decode_responses": True,
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_timeout": REPLY_TIMEOUT,
        "retry": Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),  # a pooled connection the server closed
    }
    if not url.startswith("sentinel://"):
        return Redis.from_url(url, **options)
    nodes, login = sentinels.parse(url)
    return Sentinel(nodes, **options).master_for(settings().sentinel_master, **login, **options)


@cache
def redis() -> Redis:
    """This process's client (safe to use after a fork: its pool notices)."""
    return connect()


def server_time() -> float:
    """Seconds since the epoch by Redis' clock: the clocks of machines differ, and are set."""
    seconds, microseconds = redis().time()
    return seconds + microseconds / 1e6


def patiently(call: Callable[[], T]) -> T:
    """Call until Redis answers, pausing up to a second: for what a begun job must not lose (its time limit ends it)."""
    pause = 0.05
    while True:
        try:
            return call()
        except UNAVAILABLE:
            time.sleep(pause)
            pause = min(pause * 2, 1.0)
