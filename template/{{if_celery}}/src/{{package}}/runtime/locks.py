"""A lock with an owner and an end: only who took it can release it, and a crash frees it.

A bare SET NX … DEL deletes the lock that the next owner already holds; a lock that ends before the job does lets a second
one start. For "only one of this job at a time" use `@job(singleton=…)`, whose lock the worker renews while the job runs.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from ..settings import settings
from .connection import redis
from .retry import Snooze

RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


@contextmanager
def lock(name: str, *, ttl: float | None = None, wait: float = 2.0) -> Iterator[None]:
    """Hold `name` for the block; if another holds it, the job is run again in `wait` seconds without spending a try.

    `ttl` in seconds, by default `lock_ttl`, must be above the hard limit, since nobody renews this lock: ValueError if not.
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
