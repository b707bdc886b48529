"""What a job's workflow, as the server describes it, says in the words that states have on every stack.

For Temporal a job that waits for its next try, one that nobody has taken and one that a person must look at are all
"Running". What tells them apart is in the pending activity, in the memo, and in the times.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import BaseModel
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.workflow.v1 import PendingActivityInfo, WorkflowExecutionExtendedInfo
from temporalio.client import WorkflowExecution, WorkflowExecutionDescription, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from ..contract import JobStatus, State, UnknownJob
from ..runtime import errors
from ..runtime.connection import JOB_STATE, client
from ..runtime.job import jobs
from ..runtime.progress import Book
from ..runtime.submission import JobId
from ..settings import settings
from .execution import HANDED_BACK, SNOOZED
from .held import LOST
from .history import close_event, closing_words, read_book, said, stuck, unread_book

CLOSED: dict[WorkflowExecutionStatus, State] = {
    WorkflowExecutionStatus.COMPLETED: "succeeded",
    WorkflowExecutionStatus.CANCELED: "cancelled",
    WorkflowExecutionStatus.TERMINATED: "cancelled",
    WorkflowExecutionStatus.FAILED: "failed",
    WorkflowExecutionStatus.TIMED_OUT: "failed",
}
LONGEST_ID = 1000  # the server's limit.maxIDLength
FIRST_TASK = 3  # events in the history of a workflow whose first task has not ended
SILENT = 2.5  # renewals without a sign of life
NOT_THERE = {RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT}


@dataclass(frozen=True)
class Memo:
    """What a job's workflow says of itself, to the server and to lists."""

    job: Mapping[str, Any]
    before: list[dict[str, Any]]
    outcome: Mapping[str, Any]
    pause: float
    waiting_for: str | None
    state: str | None  # parked or discarded
    unreadable: str | None = None
    """Why what it holds is not known here: it was encrypted with a key that this process lacks, for instance."""

    @property
    def generation(self) -> int:
        return len(self.before) + 1


class Told(BaseModel):
    """The memo of a job's workflow; any client can give a workflow another one."""

    job: dict[str, Any] | None = None
    before: list[dict[str, Any]] | None = None
    outcome: dict[str, Any] | None = None
    pause: float | None = None
    waiting_for: str | None = None


async def read(found: WorkflowExecution) -> Memo:
    """Of a workflow that was described or listed; one that other clients started has none."""
    state = found.typed_search_attributes.get(JOB_STATE)
    if state in ("waiting", "paused"):  # which it no longer does if it has timed out meanwhile
        state = None
    try:
        told = Told.model_validate(await found.memo())
    except RPCError:
        raise
    except Exception as error:  # whatever another client sent, under whatever key
        return Memo({}, [], {}, 0.0, None, state, errors.describe(error))
    return Memo(told.job or {}, told.before or [], told.outcome or {}, told.pause or 0.0, told.waiting_for, state)


def job_id(found: WorkflowExecution, memo: Memo, generation: int | None = None) -> JobId:
    """Of the current generation, or that one."""
    first = found.raw_info.first_run_id or memo.outcome.get("first_run_id") or found.run_id  # lists do not tell it
    return JobId(found.id, first if memo.job.get("key") else None, generation or memo.generation)


async def describe(wanted: JobId) -> WorkflowExecutionDescription:
    """The latest run of the chain that the job is; raises UnknownJob."""
    server = await client()
    if len(wanted.workflow_id) > LONGEST_ID:  # its refusal, which quotes the id, would be no HTTP/2
        raise UnknownJob(f"there is no job with an id of {len(wanted.workflow_id)} characters")
    try:
        found = await server.get_workflow_handle(wanted.workflow_id).describe()
        if wanted.run_id and wanted.run_id not in (found.raw_info.first_run_id, found.run_id):
            found = await server.get_workflow_handle(wanted.workflow_id, run_id=wanted.run_id).describe()
        while found.status == WorkflowExecutionStatus.CONTINUED_AS_NEW:  # another job has its key now
            closing = await close_event(found)
            following = closing.workflow_execution_continued_as_new_event_attributes.new_execution_run_id
            found = await server.get_workflow_handle(wanted.workflow_id, run_id=following).describe()
    except RPCError as error:
        if error.status in NOT_THERE:
            raise UnknownJob(f"there is no job {wanted} (any more)") from error
        raise
    return found


def began(found: WorkflowExecutionDescription) -> bool:
    """Whether a worker has done anything for it."""
    tried = found.raw_description.pending_workflow_task.attempt > 1
    return found.history_length > (FIRST_TASK + 1 if tried else FIRST_TASK)


async def status_of(found: WorkflowExecutionDescription, asked: JobId | None = None) -> JobStatus:
    """Of a described workflow; `asked` may be an earlier generation. Raises UnknownJob for a later one."""
    memo = await read(found)
    generation = asked.generation if asked else memo.generation
    if generation > memo.generation:
        raise UnknownJob(f"there is no job {asked}")
    fields: dict[str, Any] = {
        "id": str(asked or job_id(found, memo)),
        "name": found.workflow_type,
        "queue": found.task_queue,
        "priority": memo.job.get("priority", 5),
        "submitted_at": _time(extended(found).original_start_time) or found.start_time.timestamp(),
        "idempotency_key": memo.job.get("key"),
        "parent": memo.job.get("parent"),
        "root": memo.job.get("root") or str(job_id(found, memo, 1)),
        "trace_id": memo.job.get("trace_id") or found.run_id.replace("-", ""),
        "replay_of": str(job_id(found, memo, generation - 1)) if generation > 1 else None,
        "error": memo.unreadable,
    }
    if generation < memo.generation:
        following = str(job_id(found, memo, generation + 1))
        return _ended(fields, memo.before[generation - 1], state="failed", replayed_as=following)
    if found.status == WorkflowExecutionStatus.RUNNING:
        if memo.state == "parked":
            return _ended(fields, memo.outcome, state="failed", dead_letter=True)
        return await _open(fields, found, memo)
    return await _closed(fields, found, memo)


async def _closed(fields: dict[str, Any], found: WorkflowExecutionDescription, memo: Memo) -> JobStatus:
    outcome, again = memo.outcome, extended(found).reset_run_id
    state = CLOSED[found.status] if found.status else "failed"
    if state == "succeeded":
        state = outcome.get("state", state)  # a singleton that was skipped says so
    return _ended(
        {**fields, "error": memo.unreadable or (None if outcome else await closing_words(found))},
        {"finished_at": found.close_time.timestamp() if found.close_time else None, **outcome},
        state=state,
        dead_letter=state == "failed" and memo.state is None and not again,
        replayed_as=str(JobId(found.id, again)) if again else None,
    )


def _ended(fields: dict[str, Any], outcome: Mapping[str, Any], **more: Any) -> JobStatus:
    told = {name: outcome[name] for name in ("started_at", "finished_at", "error", "progress") if outcome.get(name)}
    attempts, size = outcome.get("attempts", 0), outcome.get("size")
    return JobStatus.model_validate({**fields, **told, "attempts": attempts, "result_size": size, **more})


async def _open(fields: dict[str, Any], found: WorkflowExecutionDescription, memo: Memo) -> JobStatus:
    now, due = time.time(), found.execution_time.timestamp() if found.execution_time else 0.0
    if due > now:
        return JobStatus.model_validate({**fields, "state": "scheduled", "attempts": 0, "due_at": due})
    problem = await stuck(found)
    fields |= {"error": problem.error if problem else memo.unreadable, "dead_letter": problem is not None}
    if problem and problem.reason == "undecodable":
        return JobStatus.model_validate({**fields, "state": "failed", "attempts": 0})
    if not began(found):
        return JobStatus.model_validate({**fields, "state": "queued", "attempts": 0})
    steps, job = found.raw_description.pending_activities, jobs().get(found.workflow_type)
    whole: dict[str, Any] = {"attempts": 1, "started_at": found.start_time.timestamp()}
    if memo.pause > now and not steps:
        return JobStatus.model_validate({**fields, **whole, "state": "scheduled", "due_at": memo.pause})
    told = [await _activity(step, now) for step in steps]
    running = [each for each in told if each["state"] == "running"]
    chosen: dict[str, Any] = (running or told or [{**whole, "state": "running"}])[0]
    if job and job.workflow:  # it is one run, however many its steps have
        chosen = {**chosen, **whole, "state": "running" if chosen["state"] == "queued" else chosen["state"]}
    elif not told and (book := await unread_book(found)):
        chosen = {"state": "running", **_noted(Book(**book))}
    elif not told and memo.job.get("singleton") and not found.raw_description.pending_children:
        chosen = {"state": "queued", "attempts": 0, "progress": {"message": "waits until the other one has ended"}}
    if memo.waiting_for:
        chosen["progress"] = {"message": f"waits for {memo.waiting_for}", **chosen.get("progress", {})}
    return JobStatus.model_validate({**fields, **chosen})


def _noted(book: Book) -> dict[str, Any]:
    """Attempts, times and progress of a run that has ended."""
    return {"attempts": book.attempt(book.ended), "started_at": book.started_at, "progress": book.progress}


async def _activity(step: PendingActivityInfo, now: float) -> dict[str, Any]:
    """State, attempts, times and progress of one."""
    book = await read_book(step.heartbeat_details.payloads)
    waited, started = book.get("back", 0) + book.get("snoozed", 0), _time(step.last_started_time)
    told: dict[str, Any] = {"started_at": book.get("started_at") or started, "progress": book.get("progress") or {}}
    if step.state != PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED:
        seen = max(_time(step.last_heartbeat_time) or 0.0, started or 0.0)
        stalled = now - seen > SILENT * settings().renewal
        return {**told, "state": "running", "attempts": max(1, step.attempt - waited), "stalled": stalled}
    told["attempts"] = max(0, step.attempt - 1 - waited)
    why, again = step.last_failure, _time(step.next_attempt_schedule_time) or 0.0
    kind = why.application_failure_info.type
    if again <= now or not kind or kind in (HANDED_BACK, LOST):
        return {**told, "state": "queued"}
    if kind == SNOOZED:
        return {**told, "state": "scheduled", "due_at": again}
    return {**told, "state": "retrying", "due_at": again, "error": await said(why)}


def extended(found: WorkflowExecutionDescription) -> WorkflowExecutionExtendedInfo:
    """What the server tells besides."""
    return found.raw_description.workflow_extended_info


def _time(stamp: Timestamp) -> float | None:
    return stamp.ToMicroseconds() / 1e6 or None
