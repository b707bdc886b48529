"""What only a workflow's history tells: how it ended, why it does not go on, what a run that has just ended noted.

Each costs a call, so it is asked only where the description leaves it open.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json
from temporalio.api.common.v1 import Payload
from temporalio.api.common.v1 import WorkflowExecution as WorkflowExecutionIdentity
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryReverseRequest
from temporalio.client import WorkflowExecution, WorkflowExecutionDescription, WorkflowHistoryEventFilterType
from temporalio.common import RawValue
from temporalio.exceptions import ActivityError
from temporalio.service import RPCError

from ..payloads import PayloadError
from ..runtime.connection import client
from ..runtime.errors import describe, shorten
from .execution import BOOK

UNDECODABLE = "Failed decoding arguments"  # what the SDK reports of a workflow's input


@dataclass(frozen=True)
class Stuck:
    """Why a workflow does not continue: its task fails again and again."""

    error: str
    reason: str = "unexpected"


async def close_event(found: WorkflowExecution) -> Any:
    """The last event of a workflow that has ended."""
    handle = (await client()).get_workflow_handle(found.id, run_id=found.run_id)
    events = handle.fetch_history_events(event_filter_type=WorkflowHistoryEventFilterType.CLOSE_EVENT)
    return [event async for event in events][-1]


async def said(failure: Failure) -> str:
    """What went wrong, in a step's own words, also where it travelled encrypted. Raises nothing but what is away."""
    try:
        error = await (await client()).data_converter.decode_failure(failure)
    except RPCError:
        raise
    except Exception as unreadable:  # whatever another client sent, under whatever key
        return describe(unreadable)
    while isinstance(error, ActivityError) and error.cause:
        error = error.cause
    return shorten(str(getattr(error, "message", None) or error))


async def closing_words(found: WorkflowExecution) -> str | None:
    """Why a workflow ended that could not say so itself."""
    event = await close_event(found)
    if event.HasField("workflow_execution_failed_event_attributes"):
        return await said(event.workflow_execution_failed_event_attributes.failure)
    if event.HasField("workflow_execution_terminated_event_attributes"):
        return event.workflow_execution_terminated_event_attributes.reason or "terminated"
    return "timed out" if event.HasField("workflow_execution_timed_out_event_attributes") else None


async def stuck(found: WorkflowExecutionDescription) -> Stuck | None:
    """What its own code raised, if that is why it does not go on, or why its input cannot be read."""
    if found.raw_description.pending_workflow_task.attempt < 2:
        return None
    for event in await _newest(found, 1):  # later tries leave no event
        if event.HasField("workflow_task_failed_event_attributes"):
            failure = event.workflow_task_failed_event_attributes.failure
            error = await said(failure)
            if error != UNDECODABLE:
                return Stuck(error)
            return Stuck(f"its input cannot be read: {await said(failure.cause)}", "undecodable")
    return None  # its worker was killed


async def unread_book(found: WorkflowExecutionDescription) -> Mapping[str, Any]:
    """The book of an activity that has ended, which its workflow does not know yet; empty if there is none."""
    converter = (await client()).data_converter
    for event in await _newest(found, 10):  # a workflow's task that is tried again leaves some after it
        if event.event_id > found.history_length:
            continue  # what has come since then, the description does not know either
        if event.HasField("workflow_task_completed_event_attributes"):
            break
        if event.HasField("activity_task_completed_event_attributes"):
            result = event.activity_task_completed_event_attributes.result
            with suppress(PayloadError, ValueError):
                [raw] = await converter.decode(result.payloads, [RawValue])
                return from_json(raw.payload.metadata.get(BOOK, b"{}"))
            break
        if event.HasField("activity_task_failed_event_attributes"):
            details = event.activity_task_failed_event_attributes.failure.application_failure_info.details
            return await read_book(details.payloads)
    return {}


async def read_book(details: Sequence[Payload]) -> Mapping[str, Any]:
    """What the runs so far of an activity noted (progress.Book); empty if it cannot be read."""
    with suppress(PayloadError, ValueError):
        for first in await (await client()).data_converter.decode(list(details[:1])):
            if isinstance(first, dict) and "ended" in first:
                return first
    return {}


async def _newest(found: WorkflowExecution, events: int) -> Iterable[HistoryEvent]:
    """So many of its events, the last one first."""
    server = await client()
    request = GetWorkflowExecutionHistoryReverseRequest(
        namespace=server.namespace,
        execution=WorkflowExecutionIdentity(workflow_id=found.id, run_id=found.run_id),
        maximum_page_size=events,
    )
    return (await server.workflow_service.get_workflow_execution_history_reverse(request)).history.events
