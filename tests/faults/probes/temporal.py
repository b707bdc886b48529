"""Jobs that the tests of faults submit."""

import asyncio
import json
import time
import urllib.request

from ..runtime import RetryPolicy, current_job, job  # ty: ignore[import-not-found]
from ..settings import settings  # ty: ignore[import-not-found]
from .endings import end
from .probes import tell  # ty: ignore[import-not-found]


def tell_blocking(label: str, **more: object) -> None:
    """The same as `tell`, from a thread."""
    running = current_job()
    assert running
    about = {"label": label, "at": time.time(), "id": running.id, "attempt": running.attempt, **more}
    request = urllib.request.Request(
        f"{settings().payment_gateway_url}/effects", json.dumps(about).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request, timeout=10).read()


@job(queue="default", retry=None)
async def ends(kind: str, label: str, seconds: float = 0) -> object:
    """Say that it started, work, and end as this kind does."""
    await tell(label)
    await asyncio.sleep(seconds)
    return end(kind)


@job(queue="default", retry=None)
def ends_in_a_thread(kind: str, label: str, seconds: float = 0) -> object:
    """The same as a plain function."""
    tell_blocking(label)
    time.sleep(seconds)
    return end(kind)


@job(queue="default", retry=RetryPolicy(attempts=3, base=0.1, cap=0.2), no_key_because="it only reports")
async def ends_retried(kind: str, label: str, seconds: float = 0) -> object:
    """The same with a retry policy, which retries what may pass."""
    await tell(label)
    await asyncio.sleep(seconds)
    return end(kind)
