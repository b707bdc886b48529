"""What `doctor` asks of Redis: a server that drops or forgets queued jobs works well until the day it is needed."""

import asyncio
from collections.abc import Iterator
from inspect import isawaitable
from typing import Any
from urllib.parse import urlsplit

from redis.exceptions import RedisError

from ..settings import NotConfigured, is_loopback, settings


def check() -> Iterator[tuple[str, str, str]]:
    """Findings as (where, problem, mend)."""
    if (secret := settings().redis_url) is None:
        yield "REDIS_URL", "is not set: only `dev` and `demo` can start", "set it: redis://host:6379/0"
        return
    url = urlsplit(secret.get_secret_value())
    if url.scheme == "redis" and not url.password and not is_loopback(url.hostname):
        yield "REDIS_URL", f"{url.hostname} needs no password", "set one, and better use rediss:// too"
    try:
        actual = asyncio.run(_configuration())
    except (NotConfigured, RedisError, OSError):  # not reachable from here, or a managed server that does not tell
        return
    if (policy := actual.get("maxmemory-policy", "noeviction")) != "noeviction":
        yield "Redis", f"{policy} drops queued jobs when memory is full", "set maxmemory-policy noeviction"
    if actual.get("appendonly") == "no":
        yield "Redis", "appendonly no loses queued jobs with a restart", "set appendonly yes"


async def _configuration() -> dict[str, str]:
    from ..runtime.connection import connect

    answer: Any = connect().config_get("maxmemory-policy", "appendonly")
    return await answer if isawaitable(answer) else answer  # the client of an asyncio stack is asynchronous
