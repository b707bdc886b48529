"""One run of a job's function as an activity: attempts, time limits, signs of life, and an end that is written down.

A bare activity is retried for ever or never, has no jitter, spends a try when its worker is redeployed, and is lost
for hours when its worker dies. Here each error is classed where it is raised, the server retries when we say, and a
heartbeat every few seconds lets another worker take over soon.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from pydantic_core import to_json
from temporalio import activity
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.exceptions import CancelledError as ActivityCancelled
from temporalio.worker import (
    ActivityInboundInterceptor,
    ActivityOutboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
)

from .. import telemetry
from ..payloads import as_json
from ..runtime.errors import describe, describe_traceback, shorten
from ..runtime.job import Job, jobs
from ..runtime.progress import Book, JobContext, Running, running
from ..runtime.retry import PermanentError, Snooze, TransientError
from ..settings import settings
from . import held
from .limits import Limits, Raised

CARRIED = "job"  # the header in which a workflow tells its activities of the job; see workflows.py
BOOK = "job-book"  # in the metadata of a result
HANDED_BACK, SNOOZED = "HandedBack", "Snoozed"  # types of failures that are none
AT_ONCE = timedelta(milliseconds=50)
LONGEST_PAUSE = 10 * 365 * 86_400.0  # seconds
NOT_FROM_OUTSIDE = (
    "activity.raise_complete_async(): a job ends with its function; to wait for something outside make it a workflow, "
    "which waits by self.decision(…), a signal or an update, or call it in an activity that is no job"
)
KEPT = 200  # runs of which the book tells singly


class JobInterceptor(Interceptor):
    """Given to each worker."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return Execution(next)


class Heartbeats(ActivityOutboundInterceptor):
    """`activity.heartbeat` and `activity.info` as the job knows them; the book goes along unseen."""

    def heartbeat(self, *details: Any) -> None:
        if run := running.get():
            activity.payload_converter().to_payloads(details)  # what is no JSON is an error of who calls
            run.details = details
            run.beat()
        else:
            super().heartbeat(*details)

    def info(self) -> activity.Info:
        info = super().info()
        if run := running.get():
            return replace(info, attempt=run.job.attempt, heartbeat_details=info.heartbeat_details[1:])
        return info


class Execution(ActivityInboundInterceptor):
    """Around each run of a job's function; other activities are run as they are."""

    def init(self, outbound: ActivityOutboundInterceptor) -> None:
        # Temporal's own for the event loop: for a plain function `activity.heartbeat` is one that waits for that loop.
        self._heartbeat = outbound.heartbeat
        super().init(Heartbeats(outbound))

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        info = activity.info()
        job = jobs().get(info.activity_type)
        if job is None or CARRIED not in input.headers:
            return await super().execute_activity(input)
        carried = activity.payload_converter().from_payload(input.headers[CARRIED], dict)
        book = Book(**info.heartbeat_details[0]) if info.heartbeat_details else Book()
        for _ in range(info.attempt - 1 - book.ended):  # nobody wrote down how they ended
            book.note("lost")
            book.lost += 1
        context = _context(job, info, carried, book)
        run = Running(context, book, self._heartbeat, tuple(info.heartbeat_details[1:]))
        token = running.set(run)
        first = info.attempt == carried["generation"] == 1
        due = carried["due_at"] if first else info.current_attempt_scheduled_time.timestamp()
        waited = max(0.0, time.time() - due)
        began, book.started_at = time.monotonic(), book.started_at or time.time()
        told = telemetry.Run("temporal", job.name, context.queue, context.id, context.attempt, carried)
        if book.lost >= settings().max_deliveries:
            told.ended("dead", reason="poison")
            running.reset(token)
            why = f"it killed its worker {book.lost} times"
            raise ApplicationError(why, book.written(), type="poison", non_retryable=True)
        note = held.Note(info)
        limits = Limits(job, run.beat)
        try:
            result = await limits.keep(super().execute_activity(replace(input, fn=limits.guard(input.fn))))
            payload = _encoded(job, result)
        except (asyncio.CancelledError, ActivityCancelled) as cancelled:
            outcome, failure = _stopped(run)
            book.note(outcome, waited, time.monotonic() - began)
            told.ended(outcome)
            if failure is None:
                raise
            run.beat()
            raise failure from cancelled
        except Exception as raised:
            error = raised.error if isinstance(raised, Raised) else raised
            outcome, failure = _failed(job, run, error)
            book.note(outcome, waited, time.monotonic() - began)
            told.failed(error)
            told.ended(outcome, reason=failure.type if failure.non_retryable else None, error=failure.message)
            if failure.non_retryable:
                details = book.written(), describe_traceback(error)
                failure = ApplicationError(failure.message, *details, type=failure.type, non_retryable=True)
            else:
                run.beat()
            # Not as its cause: that would be written down as it is, though it may have no text that can be
            raise failure.with_traceback(error.__traceback__) from None
        else:
            book.note("succeeded", waited, time.monotonic() - began)
            told.ended("succeeded")
            payload.metadata[BOOK] = to_json(book.written())
            return RawValue(payload)
        finally:
            note.close()
            del book.runs[:-KEPT]
            running.reset(token)


def _context(job: Job[Any, Any], info: activity.Info, carried: Mapping[str, Any], book: Book) -> JobContext:
    return JobContext(
        id=carried["id"],
        name=job.name,
        attempt=book.attempt(info.attempt),
        queue=carried["queue"],
        idempotency_key=carried.get("key"),
        trace_id=carried["trace_id"],
        root=carried.get("root") or carried["id"],
        generation=carried.get("generation", 1),
    )


def _encoded(job: Job[Any, Any], result: Any) -> Payload:
    """As JSON; a result that is not is this job's failure, with its name."""
    text = f"{job.name} returned {type(result).__name__}, which is not JSON"
    try:
        return as_json(result)
    except Exception as error:  # NotJsonError, or whatever the result's own code raises
        raise PermanentError(f"{text}: {error}") from error


def _stopped(run: Running) -> tuple[str, ApplicationError | None]:
    """Why it was cancelled: somebody asked for that, or the worker stops and another shall run it."""
    details = activity.cancellation_details()
    if details and not details.cancel_requested and (details.worker_shutdown or details.paused or details.reset):
        run.book.back += 1
        return "handed_back", ApplicationError(
            "its worker stopped", type=HANDED_BACK, next_retry_delay=AT_ONCE, category=ApplicationErrorCategory.BENIGN
        )
    return "cancelled", None


def _failed(job: Job[Any, Any], run: Running, error: BaseException) -> tuple[str, ApplicationError]:
    """The outcome of this run, and what the server is to do."""
    if isinstance(error, Snooze):
        run.book.snoozed += 1
        why, benign = shorten(error.why), ApplicationErrorCategory.BENIGN
        return "snoozed", ApplicationError(why, type=SNOOZED, next_retry_delay=_pause(error.delay), category=benign)
    if isinstance(error, activity._CompleteAsyncError):
        error = PermanentError(NOT_FROM_OUTSIDE)
    said = describe(error)
    if isinstance(error, ApplicationError):  # as a Temporal developer says it
        after = error.next_retry_delay.total_seconds() if error.next_retry_delay else None
        said = said.partition(": ")[2]  # which begins with its own type
        error = PermanentError(said) if error.non_retryable else TransientError(said, after)
    try:
        decided = job.retry.decide(run.job.attempt - run.book.lost, error)
    except Exception as unclear:  # the error's `retry_after` may be anything
        said, decided = f"{said} ({describe(unclear)})", "unexpected"
    if isinstance(decided, str):
        outcome = "timed_out" if decided == "timed out" else "dead"
        return outcome, ApplicationError(said, type=decided, non_retryable=True)
    kind = shorten(type(error).__name__)
    return "retried", ApplicationError(said, type=kind, next_retry_delay=_pause(decided))


def _pause(seconds: float) -> timedelta:
    """What a timer of the server can be, whatever number it was."""
    return timedelta(seconds=min(max(0.001, seconds), LONGEST_PAUSE))
