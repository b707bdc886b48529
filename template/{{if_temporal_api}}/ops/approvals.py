"""What waits for a person's decision, and taking it: by an update, so that one that comes too late is told so.

A decision sent as a signal gets lost: nobody learns that it came second, or after the time was over. The workflow takes
an update once, while it waits for one, and the server has written it down before it answers.
"""

from typing import Any

from pydantic import BaseModel, Field
from temporalio.client import (
    WorkflowExecution,
    WorkflowExecutionDescription,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.service import RPCError, RPCStatusCode

from ..contract import FINAL, BrokerUnavailable, ContractError
from ..runtime import Decision
from ..runtime.connection import JOB_PARKED_AT, NO_ANSWER, client
from ..runtime.submission import JobId
from . import status
from .backlog import ON_QUEUES, count
from .dead_letters import payload_of
from .engine import answering

WAITING = f"ExecutionStatus = 'Running' AND JobState = 'waiting' AND {ON_QUEUES}"


class Approval(BaseModel):
    """A job that waits for a person's decision."""

    id: str
    name: str
    queue: str
    waiting_for: str = Field(description="what its code calls the decision")
    since: float = Field(description="Unix time")
    payload: Any = None


@answering
async def listed(limit: int) -> list[Approval]:
    """The longest waiting first, without payload."""
    if not await count(WAITING):  # which makes JobState known
        return []
    found = [await _approval(found) async for found in (await client()).list_workflows(WAITING, page_size=1_000)]
    return sorted(found, key=lambda approval: approval.since)[:limit]


@answering
async def shown(job_id: str) -> Approval:
    """One whole. Raises UnknownJob, ContractError if it waits for no decision."""
    found = await _waiting(job_id)
    whole = {"id": job_id, "payload": (await payload_of(found))["payload"]}
    return (await _approval(found)).model_copy(update=whole)


@answering
async def decide(job_id: str, decision: Decision) -> None:
    """Raises UnknownJob, ContractError if it waits for no decision, BrokerUnavailable if no worker answers."""
    found = await _waiting(job_id)
    handle = (await client()).get_workflow_handle(found.id, run_id=found.run_id)
    try:
        await handle.execute_update("decide", decision, rpc_timeout=NO_ANSWER)
    except WorkflowUpdateRPCTimeoutOrCancelledError as error:
        raise BrokerUnavailable(
            f"no worker on queue {found.task_queue} answers, and a decision needs one; this one may still arrive, "
            "so look at the job before you decide again"
        ) from error
    except (WorkflowUpdateFailedError, RPCError) as error:
        if isinstance(error, RPCError) and error.status != RPCStatusCode.NOT_FOUND:
            raise
        raise ContractError(f"job {job_id} waits for no decision any more") from error


async def _waiting(job_id: str) -> WorkflowExecutionDescription:
    wanted = JobId.parse(job_id)
    found = await status.describe(wanted)
    state = (await status.status_of(found, wanted)).state
    memo = await status.read(found)
    if memo.unreadable:
        raise BrokerUnavailable(f"job {job_id} cannot be read here: {memo.unreadable}")
    if state in FINAL or memo.waiting_for is None:
        raise ContractError(f"job {job_id} ({state}) waits for no decision")
    return found


async def _approval(found: WorkflowExecution) -> Approval:
    memo = await status.read(found)
    since = found.typed_search_attributes.get(JOB_PARKED_AT) or found.start_time
    return Approval(
        id=str(status.job_id(found, memo)),
        name=found.workflow_type,
        queue=found.task_queue,
        waiting_for=memo.waiting_for or memo.unreadable or "",
        since=since.timestamp(),
    )
