"""One client for each process, by the SDK's own environment configuration, and what it means when the server is away.

The client connects when it is first used, so that API and commands start, and can say what is wrong, without a server.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.common import SearchAttributeKey
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime
from temporalio.service import RPCError
from temporalio.service import RPCStatusCode as Status

from .. import calls
from ..payloads import PayloadStoreUnavailable, data_converter
from ..settings import settings
from .core import shared_core

JOB_STATE = SearchAttributeKey.for_keyword("JobState")
"""`parked` while a failed job waits for a person, `discarded` if that gave it up, `waiting` while one waits for a
decision, `paused` for a timer. Never encrypted, as all search attributes."""
JOB_PARKED_AT = SearchAttributeKey.for_datetime("JobParkedAt")
NO_ANSWER = timedelta(seconds=2)  # for what needs a worker's answer: updates and queries
AWAY = {Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED, Status.CANCELLED, Status.ABORTED, Status.RESOURCE_EXHAUSTED}
UNAVAILABLE: tuple[type[Exception], ...] = (RPCError, RuntimeError, OSError)
"""To be caught, then asked: `unavailable(error)`. A lazy client's first call raises a plain RuntimeError."""

_client: Client | None = None


def unavailable(error: BaseException) -> bool:
    """Whether this error says that the server does not answer."""
    if isinstance(error, RPCError):
        return error.status in AWAY
    return isinstance(error, OSError | PayloadStoreUnavailable) or (
        isinstance(error, RuntimeError) and "connect" in str(error).lower()
    )


def configuration() -> Mapping[str, Any]:
    """Where the server is: TEMPORAL_* variables, before the profile of a TOML file. Raises NotConfigured."""
    return {**ClientConfig.load_client_connect_config(override_env_vars=settings().require_temporal())}


async def connect(*, runtime: Runtime | None = None, identity: str | None = None, lazy: bool = False) -> Client:
    """A client of its own, for a worker; raises NotConfigured, RuntimeError if it is not `lazy` and nobody answers."""
    ours = {"data_converter": data_converter(), "retry_config": calls.retries}
    runtime = runtime or shared_core()
    return calls.let_end(await Client.connect(**configuration(), **ours, runtime=runtime, identity=identity, lazy=lazy))


async def client() -> Client:
    """This process's client."""
    global _client
    if _client is None:
        _client = await connect(lazy=True)
    return _client
