"""Make our search attributes known to the namespace, and wait for a server that is not there yet.

A workflow that sets an attribute which the namespace does not know gets stuck; one that it has just learned is not
indexed for some seconds, and a parked job would be in no list.
"""

import asyncio

import structlog
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.runtime import Runtime
from temporalio.service import RPCError, RPCStatusCode

from ..runtime.connection import JOB_PARKED_AT, JOB_STATE, UNAVAILABLE, connect, unavailable
from ..settings import NotConfigured

log = structlog.get_logger(__name__)
INDEXED_WITHIN = 10.0  # seconds: a server refreshes what it knows of a namespace so often
REFUSED = {RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED}


async def register(server: Client) -> bool:
    """Make our search attributes known: a workflow that sets one which is not gets stuck. False if they were."""
    keyword, moment = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD, IndexedValueType.INDEXED_VALUE_TYPE_DATETIME
    wanted = {JOB_STATE.name: keyword, JOB_PARKED_AT.name: moment}
    asked = ListSearchAttributesRequest(namespace=server.namespace)
    known = (await server.operator_service.list_search_attributes(asked)).custom_attributes
    missing = {name: kind for name, kind in wanted.items() if name not in known}
    if not missing:
        return False
    try:
        request = AddSearchAttributesRequest(namespace=server.namespace, search_attributes=missing)
        await server.operator_service.add_search_attributes(request)
    except RPCError as error:
        if error.status in REFUSED:  # Temporal Cloud, or a role that may not
            kinds = f"{JOB_STATE.name} (Keyword) and {JOB_PARKED_AT.name} (Datetime)"
            raise NotConfigured(f"add the search attributes {kinds} to the namespace {server.namespace}") from None
        if error.status != RPCStatusCode.ALREADY_EXISTS:  # another process was first
            raise
    return True


async def connect_patiently(*, runtime: Runtime | None = None, identity: str | None = None) -> Client:
    """A client that is connected, and has registered, when the server is there: who starts before it waits."""
    told = False
    while True:
        try:
            server = await connect(runtime=runtime, identity=identity)
            if await register(server):
                log.info("the namespace is new: waiting until it indexes our attributes", seconds=INDEXED_WITHIN)
                await asyncio.sleep(INDEXED_WITHIN)
            return server
        except UNAVAILABLE as error:
            if not unavailable(error):
                raise
            if not told:
                log.warning("the server does not answer yet", error=str(error))
            told = True
            await asyncio.sleep(1)
