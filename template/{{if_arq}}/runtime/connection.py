"""One way to reach Redis or Valkey: bounded waits, verified TLS, Sentinel, JSON; so that a frozen server never hangs a
caller, and nothing is ever pickled.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from arq.connections import ArqRedis
from arq.jobs import Job as ArqJob
from pydantic_core import PydanticSerializationError, from_json, to_json
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, TimeoutError

from ..contract import JobFailed
from ..queues import DEFAULT_QUEUE
from ..settings import settings
from . import refusals, sentinels

refusals.install()

UNAVAILABLE = (ConnectionError, TimeoutError, OSError)
CONNECT_TIMEOUT = 1.0  # seconds
REPLY_TIMEOUT = 2.0  # seconds; together below the 3 s in which the API answers
MAX_CONNECTIONS = 50  # of one process; who needs more waits for a free one

T = TypeVar("T")


def dumps(value: object) -> bytes:
    """JSON; raises pydantic_core.PydanticSerializationError for what is none, NaN and infinities included."""
    encoded = to_json(value)
    if b"NaN" in encoded or b"Infinity" in encoded:  # perhaps in a text
        try:
            from_json(encoded, allow_inf_nan=False)
        except ValueError as error:
            raise PydanticSerializationError("NaN and infinities are no JSON: use None, or a text") from error
    return encoded


def text(value: bytes) -> str:
    """What Redis answered as text; bytes that are none show as `\\x…`."""
    return value.decode("utf-8", "backslashreplace")


def texts(mapping: Mapping[bytes, bytes]) -> dict[str, str]:
    """A hash as Redis answers it."""
    return {text(name): text(value) for name, value in mapping.items()}


def loads(document: bytes) -> Any:
    """A message or result of arq's; what a job raised is an exception again, as arq's `Job.result()` raises it."""
    value = from_json(document)
    if isinstance(value, dict) and value.get("s") is False:
        raised = value.get("r")
        by_itself = isinstance(raised, dict)
        value["r"] = JobFailed(raised.get("message")) if by_itself else asyncio.CancelledError(raised)
    return value


class JobRedis(ArqRedis):
    """arq's client, with JSON, and with all patterns for a job of this service."""

    def __init__(self, pool: BlockingConnectionPool) -> None:
        super().__init__(
            pool, job_serializer=dumps, job_deserializer=loads, default_queue_name=f"arq:queue:{DEFAULT_QUEUE}"
        )

    async def job(self, job_id: str) -> ArqJob:
        """arq's handle of a job, with `status`, `result`, `info` and `abort`; it finds a job by its queue only."""
        from .submission import find

        return await find(self, job_id)

    async def enqueue_job(self, function: str, *args: Any, **options: Any) -> ArqJob | None:
        """As in arq; a job of this service goes to its own queue unless `_queue_name` names one, under its idempotency
        key. With `_expires` it is cancelled if it has not begun after so long.

        Raises pydantic.ValidationError if the arguments do not fit, UnknownQueue, IdempotencyConflict, TypeError for an
        option that would have no effect.
        """
        from .submission import enqueue  # here, since submissions need the connection

        return await enqueue(self, super().enqueue_job, function, args, options)


def connect() -> JobRedis:
    """A new client for `settings().redis_url`; raises NotConfigured if that is not set."""
    url = settings().require_redis_url()
    options: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_timeout": REPLY_TIMEOUT,
        "retry": Retry(NoBackoff(), 1),
        "retry_on_error": [ConnectionError],  # a pooled connection that the server closed
    }
    waiting = {"max_connections": MAX_CONNECTIONS, "timeout": REPLY_TIMEOUT}
    if url.startswith("rediss"):
        options["ssl_check_hostname"] = True
    if not url.startswith("sentinel://"):
        return JobRedis(BlockingConnectionPool.from_url(url, **waiting, **options))
    nodes, login = sentinels.parse(url)
    master = Sentinel(nodes, **options).master_for(settings().sentinel_master, **login, **options)
    return JobRedis(master.connection_pool)


_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, JobRedis] = WeakKeyDictionary()


def redis() -> JobRedis:
    """The client of the running event loop: connections cannot change loops."""
    loop = asyncio.get_running_loop()
    return _clients.get(loop) or adopt(loop, connect())


def adopt(loop: asyncio.AbstractEventLoop, client: JobRedis) -> JobRedis:
    """Make this the loop's client."""
    _clients[loop] = client
    return client


async def close() -> None:
    """Close the running loop's client, if it has one."""
    if client := _clients.pop(asyncio.get_running_loop(), None):
        await client.aclose(close_connection_pool=True)


async def server_time() -> float:
    """Seconds since the epoch by Redis' clock: the clocks of machines differ, and are set."""
    seconds, microseconds = await redis().time()
    return seconds + microseconds / 1e6


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Call until Redis answers, pausing up to a second: for what a begun job must not lose (its time limit ends it)."""
    pause = 0.05
    while True:
        try:
            return await call()
        except UNAVAILABLE:
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)
