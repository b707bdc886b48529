"""Jobs that a person must look at: parked ones, those that failed, and those that are stuck in their own code.

A workflow that fails has lost its place, and one whose code raises is tried for ever and told by nobody. Parked ones
go on from the step that failed, by an update that their workflow answers; failed ones are reset to it; stuck ones go on
by themselves with the next deployment.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from temporalio.api.common.v1 import WorkflowExecution as Execution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest, ResetWorkflowExecutionRequest
from temporalio.client import (
    WorkflowExecution,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.service import RPCError, RPCStatusCode

from ..contract import BrokerUnavailable, ContractError, DeadLetter, NotADeadLetter, Submission, UnknownJob
from ..payloads import PayloadError
from ..runtime.connection import NO_ANSWER, client
from ..runtime.errors import describe
from ..runtime.job import jobs
from ..runtime.submission import JobId
from . import history, status
from .backlog import AT_ONCE, DEAD, ON_QUEUES, OPEN, count, moment, quoted

FAILED = {WorkflowExecutionStatus.FAILED, WorkflowExecutionStatus.TIMED_OUT}
GONE = {*FAILED, WorkflowExecutionStatus.CANCELED, WorkflowExecutionStatus.TERMINATED}
WINDOWS = (3600.0, 30 * 86_400.0, None)  # seconds back that are searched one after the other for the newest
SETTLED = 10.0  # seconds an open workflow is given before it may be called stuck
LOOKED_AT = 200  # open workflows at most that are described to find stuck ones, on servers that cannot list them
PROBLEM = "TemporalReportedProblems IN ('category=WorkflowTaskFailed', 'category=WorkflowTaskTimedOut')"

_deleted: set[str] = set()  # runs that the server takes some seconds to delete


async def listed(*, job: str | None, queue: str | None, reason: str | None, limit: int) -> list[DeadLetter]:
    """The newest first, without payload and traceback."""
    wanted = [f"WorkflowType = {quoted(job)}"] if job else []
    wanted.append(f"TaskQueue = {quoted(queue)}" if queue else ON_QUEUES)
    here, found = " AND ".join(wanted), list[DeadLetter]()
    for window in WINDOWS:
        since = moment(time.time() - window) if window else None
        recent = f" AND (JobParkedAt >= {since} OR CloseTime >= {since})" if since else ""
        letters = [letter async for letter in _letters(f"{here} AND {DEAD}{recent}")]
        found = [letter for letter in letters if reason in (None, letter.reason)]
        if len(found) >= limit:
            break
    if reason in (None, "unexpected", "undecodable"):
        found += [letter async for letter in _stuck(here) if reason in (None, letter.reason)]
    return sorted(found, key=lambda letter: letter.failed_at, reverse=True)[:limit]


async def _letters(query: str) -> AsyncIterator[DeadLetter]:
    if not await count(query):
        return
    async for found in (await client()).list_workflows(query, page_size=1_000):
        if found.status in FAILED:
            with suppress(UnknownJob):  # just deleted
                described = await status.describe(JobId(found.id, found.run_id))
                if described.run_id == found.run_id and (letter := await _of(described)):
                    yield letter.model_copy(update={"traceback": ""})
        else:
            yield _letter(found, await status.read(found)).model_copy(update={"traceback": ""})


async def _stuck(here: str) -> AsyncIterator[DeadLetter]:
    server = await client()
    query, limit = f"{here} AND ExecutionStatus = 'Running' AND {PROBLEM}", 1_000
    try:
        await server.count_workflows(query)
    except RPCError as error:
        if error.status != RPCStatusCode.INVALID_ARGUMENT:
            raise
        query, limit = f"{here} AND {OPEN} AND StartTime < {moment(time.time() - SETTLED)}", LOOKED_AT
    ids = [found.id async for found in server.list_workflows(query, limit=limit)]
    for start in range(0, len(ids), AT_ONCE):
        each = (status.describe(JobId(name)) for name in ids[start : start + AT_ONCE])
        for described in await asyncio.gather(*each, return_exceptions=True):
            if isinstance(described, WorkflowExecutionDescription) and (letter := await _of(described)):
                yield letter


async def shown(job_id: str) -> DeadLetter:
    """One letter whole; raises NotADeadLetter."""
    found, letter = await _found(job_id)
    return letter.model_copy(update=await payload_of(found))


async def _found(job_id: str) -> tuple[WorkflowExecutionDescription, DeadLetter]:
    wanted, none = JobId.parse(job_id), NotADeadLetter(f"there is no dead letter {job_id}")
    try:
        found = await status.describe(wanted)
    except UnknownJob:
        raise none from None
    if wanted.generation == (await status.read(found)).generation and (letter := await _of(found)):
        return found, letter.model_copy(update={"id": job_id})
    raise none


async def _of(found: WorkflowExecutionDescription) -> DeadLetter | None:
    """The letter that this workflow is, if it is one."""
    memo = await status.read(found)
    if found.status == WorkflowExecutionStatus.RUNNING:
        if memo.state == "parked":
            return _letter(found, memo)
        problem = await history.stuck(found)
        return _letter(found, memo, {**vars(problem), "replayable": False}) if problem else None
    gone = memo.state is not None or found.run_id in _deleted or status.extended(found).reset_run_id
    if found.status not in FAILED or gone:
        return None
    error = memo.outcome.get("error") or await history.closing_words(found) or "failed"
    timed_out = found.status == WorkflowExecutionStatus.TIMED_OUT
    return _letter(found, memo, {"reason": "timed out" if timed_out else "unexpected", **memo.outcome, "error": error})


def _letter(found: WorkflowExecution, memo: status.Memo, told: Mapping[str, Any] | None = None) -> DeadLetter:
    told = told or memo.outcome
    ended = found.close_time or found.start_time
    return DeadLetter(
        id=str(status.job_id(found, memo)),
        job=found.workflow_type,
        queue=found.task_queue,
        reason=told.get("reason") or "unexpected",
        error=told.get("error") or memo.unreadable or "",
        traceback=told.get("traceback") or "",
        attempts=told.get("attempts") or 0,
        failed_at=told.get("finished_at") or ended.timestamp(),
        idempotency_key=memo.job.get("key"),
        trace_id=memo.job.get("trace_id"),
        replayable=told.get("replayable", True) and not memo.unreadable,
    )


async def payload_of(found: WorkflowExecutionDescription) -> dict[str, Any]:
    """As it was submitted, read from the workflow's first event."""
    server = await client()
    page = server.get_workflow_handle(found.id, run_id=found.run_id).fetch_history_events(page_size=1)
    first = await anext(page)
    job = jobs().get(found.workflow_type)
    try:
        values = await server.data_converter.decode(
            list(first.workflow_execution_started_event_attributes.input.payloads)
        )
    except Exception as error:  # whatever it is that somebody sent
        return {"payload": None, "replayable": False, "traceback": f"its payload cannot be read: {describe(error)}"}
    if job is None:
        return {"payload": values}
    if job.payload_parameter:
        return {"payload": values[0] if values else None}
    return {"payload": dict(zip(job.arguments.model_fields, values, strict=False)) or None}


async def replay(job_id: str) -> Submission:
    """Go on from the step that failed; a second replay answers with the first one's job.

    Raises NotADeadLetter, ContractError for one that cannot be run, BrokerUnavailable if no worker answers.
    """
    wanted = JobId.parse(job_id)
    try:
        return await _replay(job_id, wanted)
    except NotADeadLetter:  # any more: somebody was faster
        if earlier := await _replayed_as(wanted):
            return Submission(id=earlier, created=False)
        raise


async def _replay(job_id: str, wanted: JobId) -> Submission:
    found, letter = await _found(job_id)
    problem = await history.stuck(found)
    if problem and problem.reason != "undecodable":
        raise ContractError(
            f"job {job_id} is stuck in its own code: {letter.error}. Deploy the fix and it goes on; or discard it"
        )
    if unreadable := (await status.read(found)).unreadable:
        raise ContractError(f"dead letter {job_id} cannot be read here, so not be run again: {unreadable}")
    if not letter.replayable:
        raise ContractError(f"dead letter {job_id} ({letter.reason}) cannot be run again: discard it")
    if found.status in FAILED:
        latest = await status.describe(JobId(found.id))
        if latest.run_id != found.run_id and latest.status not in GONE:  # a reset would end that one
            using = status.job_id(latest, await status.read(latest))
            raise ContractError(f"dead letter {job_id}: its key is in use by job {using}; replay when that has ended")
        return Submission(id=str(JobId(found.id, await _reset(found))), created=True)
    await _update(found, "replay", wanted.generation)
    return Submission(id=str(replace(wanted, generation=wanted.generation + 1)), created=True)


async def _replayed_as(wanted: JobId) -> str | None:
    """The job that this one was replayed as before."""
    try:
        found = await status.describe(wanted)
        told = await status.status_of(found, wanted)
    except UnknownJob:
        return None
    if told.replayed_as or found.raw_info.first_run_id == found.run_id:
        return told.replayed_as
    first = (await client()).get_workflow_handle(found.id, run_id=found.raw_info.first_run_id)
    again = status.extended(await first.describe()).reset_run_id  # whose run is the latest of the same chain
    return str(JobId(found.id, again)) if again else None


async def discard(job_id: str) -> None:
    """Give it up and free its key; raises NotADeadLetter, BrokerUnavailable if no worker answers."""
    found, _ = await _found(job_id)
    server = await client()
    if found.status in FAILED:
        request = DeleteWorkflowExecutionRequest(
            namespace=server.namespace, workflow_execution=Execution(workflow_id=found.id, run_id=found.run_id)
        )
        await server.workflow_service.delete_workflow_execution(request)
        _deleted.add(found.run_id)
    elif await history.stuck(found):
        await server.get_workflow_handle(found.id, run_id=found.run_id).terminate(reason="discarded")
    else:
        await _update(found, "discard", "discarded by a person")


async def _update(found: WorkflowExecutionDescription, update: str, argument: object) -> None:
    handle = (await client()).get_workflow_handle(found.id, run_id=found.run_id)
    try:
        await handle.execute_update(update, argument, rpc_timeout=NO_ANSWER)
    except PayloadError:  # the worker's answer, under a key that this process lacks
        now = await handle.describe()
        if now.status == WorkflowExecutionStatus.RUNNING and (await status.read(now)).state == "parked":
            raise
    except WorkflowUpdateFailedError as error:
        raise NotADeadLetter(f"there is no dead letter {found.id} (any more): {error.cause or error}") from error
    except WorkflowUpdateRPCTimeoutOrCancelledError as error:
        raise BrokerUnavailable(
            f"no worker on queue {found.task_queue} answers, and {update} needs one: start one, then try again"
        ) from error
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        raise NotADeadLetter(f"there is no dead letter {found.id} (any more)") from error


async def _reset(found: WorkflowExecutionDescription) -> str:
    """Begin a new run with all that went well; the id of that run."""
    server, last, tasks = await client(), 0, dict[int, int]()  # those that scheduled an activity
    async for event in server.get_workflow_handle(found.id, run_id=found.run_id).fetch_history_events():
        if event.HasField("workflow_task_completed_event_attributes"):
            last = event.event_id
        scheduled = event.activity_task_scheduled_event_attributes
        tasks[event.event_id] = scheduled.workflow_task_completed_event_id
        failed = event.workflow_execution_failed_event_attributes.failure
        for each in (failed, failed.cause):
            last = tasks.get(each.activity_failure_info.scheduled_event_id) or last
    request = ResetWorkflowExecutionRequest(namespace=server.namespace, workflow_task_finish_event_id=last)
    request.workflow_execution.MergeFrom(Execution(workflow_id=found.id, run_id=found.run_id))
    request.reason, request.request_id = "replayed by a person", str(uuid.uuid4())
    return (await server.workflow_service.reset_workflow_execution(request)).run_id
