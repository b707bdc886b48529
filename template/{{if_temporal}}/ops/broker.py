"""What `doctor` asks of the Temporal server: one that forgets before the service does answers the same key twice, and
tells nobody of a workflow that its own code keeps from going on.
"""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest

from ..contract import DeadLetter
from ..settings import is_loopback, settings

TOLD = 20  # stuck jobs at most


def check() -> Iterator[tuple[str, str, str]]:
    """Findings as (where, problem, mend)."""
    config = settings()
    if not config.has_broker:
        problem = "is not set: only `dev` and `demo` can start"
        yield "TEMPORAL_ADDRESS", problem, "set it: localhost:7233, or TEMPORAL_PROFILE"
        return
    try:
        from ..runtime.connection import configuration

        given = configuration()
    except RuntimeError as error:  # what the SDK raises for a profile or a file that is not there or not readable
        yield "TEMPORAL_PROFILE", str(error), "correct it, or the file in TEMPORAL_CONFIG_FILE"
        return
    host = given.get("target_host", "localhost:7233").rpartition(":")[0].strip("[]")
    if not is_loopback(host) and not given.get("tls") and not given.get("api_key"):
        mend = "set TEMPORAL_API_KEY, or TEMPORAL_TLS=true with a client's certificate"
        yield "TEMPORAL_ADDRESS", f"{host} is called without TLS and key", mend
    try:
        namespace, kept, stuck = asyncio.run(_asked())
    except Exception:  # not reachable from here, or nothing that this key may ask
        return
    for name in ("result_ttl", "idempotency_ttl"):
        if kept < (wanted := timedelta(seconds=getattr(config, name))):
            problem = f"forgets after {kept.total_seconds():.0f} s, {name.upper()} is {wanted.total_seconds():.0f} s"
            mend = f"temporal operator namespace update --namespace {namespace} --retention {_hours(wanted)}h"
            yield f"Namespace {namespace}", problem, mend
    for letter in stuck[:TOLD]:
        yield f"Job {letter.id}", f"is stuck in its own code: {letter.error}", "deploy the fix: it goes on by itself"


async def _asked() -> tuple[str, timedelta, list[DeadLetter]]:
    """The namespace, how long it keeps what has ended, and the jobs whose workflow raises again and again."""
    from .. import calls
    from ..runtime.connection import client

    async with asyncio.timeout(5):
        connected = await client()
        request = DescribeNamespaceRequest(namespace=connected.namespace)
        answer = await connected.workflow_service.describe_namespace(request)
    stuck: list[DeadLetter] = []
    with suppress(Exception):  # jobs/ cannot be imported, or there are too many to look at: all else is told
        from .dead_letters import listed

        async with asyncio.timeout(5):
            found = await listed(job=None, queue=None, reason="unexpected", limit=1_000)
        stuck = [letter for letter in found if not letter.replayable]
    await calls.settled()
    return connected.namespace, answer.config.workflow_execution_retention_ttl.ToTimedelta(), stuck


def _hours(wanted: timedelta) -> int:
    """Rounded up."""
    return -(-wanted // timedelta(hours=1))
