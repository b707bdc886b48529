"""Remove the large payloads that no history refers to any more.

Temporal forgets a closed workflow after the namespace's retention, and leaves what was stored outside to us.
"""

import asyncio
from threading import Thread

import structlog
from temporalio.client import WorkflowExecution

from ..payloads import sweep
from ..runtime.connection import client
from .backlog import ON_QUEUES

log = structlog.get_logger(__name__)
EVERY = 3600.0  # seconds
AGAIN = 60.0  # seconds after which a server that was away is asked again


async def sweep_now_and_then() -> None:
    """For ever, beside the schedules."""
    while True:
        pause = EVERY
        try:
            opened = (await client()).list_workflows(f"{ON_QUEUES} AND ExecutionStatus = 'Running'", page_size=1_000)
            oldest = min([await _first_start(found) async for found in opened], default=None)
        except Exception as error:
            log.warning("nobody says which large payloads are needed", error=str(error))
            pause = AGAIN
        else:
            Thread(target=_sweep, args=[oldest], daemon=True).start()  # not to_thread: the end would wait for it
        await asyncio.sleep(pause)


def _sweep(oldest: float | None) -> None:
    try:
        removed = sweep(oldest)
    except Exception:  # a store that is away must not stop the schedules; the next sweep comes
        log.exception("large payloads not removed")
    else:
        log.info("large payloads removed that nobody needs", count=removed)


async def _first_start(found: WorkflowExecution) -> float:
    """When the first run of the chain started; only a workflow that has continued as new knows another time."""
    memo = await found.memo()
    return (memo.get("job") or {}).get("first_start") or found.start_time.timestamp()
