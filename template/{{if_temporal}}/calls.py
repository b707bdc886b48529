"""A call to the server is let end, also when whoever asked has left: a cancelled one can break a dev server for good.

If a caller leaves while the server reads, its SQLite driver loses the query, and answers all others "interrupted (9)"
until it is started again (`stmt.query` of modernc.org/sqlite, mended in 1.40; servers from 1.31 on have that). So
whoever is cancelled goes at once and asks nothing more, and what it has asked ends unheard.
"""

import asyncio
from typing import Any

from temporalio.client import Client
from temporalio.service import RetryConfig

PROMPT = RetryConfig(max_interval_millis=500, max_elapsed_time_millis=1_500)
"""For callers who hear after `ANSWER_WITHIN` that nobody answers: by then nobody is asked any more."""
retries: RetryConfig | None = None
"""How long a server that is away is asked again; None is the SDK's 10 s."""
ENDED_WITHIN = 2.0  # seconds; what takes longer has no answer to come

_under_way: set[asyncio.Task[Any]] = set()


def let_end(client: Client) -> Client:
    """The same client, whose calls nobody cancels."""
    service = client.service_client
    ask = service._rpc_call  # through which all go; interceptors see only some of them

    async def asked(*args: Any, **kwargs: Any) -> Any:
        call = asyncio.create_task(ask(*args, **kwargs))
        _under_way.add(call)
        call.add_done_callback(_under_way.discard)
        call.add_done_callback(heard)
        return await asyncio.shield(call)

    setattr(service, "_rpc_call", asked)  # noqa: B010
    return client


def heard(call: asyncio.Future[Any]) -> None:
    """Told when it is done: or Python complains of an error for which nobody waits any more."""
    if not call.cancelled():
        call.exception()


async def settled() -> None:
    """Wait until they have ended: before an event loop does, which would cancel them."""
    if _under_way:
        await asyncio.wait(_under_way, timeout=ENDED_WITHIN)
    await asyncio.sleep(0.05)  # a process that ends at once after its last call may crash: temporalio/sdk-python#300
