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

from pydantic_core import PydanticSerializationError, to_json
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
from ..runtime.job import Job, jobs
from ..runtime.progress import Book, JobContext, Running, running
from ..runtime.retry import PermanentError, Snooze, TimedOut, TransientError
from ..settings import settings
from . import held

CARRIED = "job"  # the header in which a workflow tells its activities of the job; see workflows.py
BOOK = "job-book"  # in the metadata of a result
HANDED_BACK, SNOOZED = "HandedBack", "Snoozed"  # types of failures that are none
AT_ONCE = timedelta(milliseconds=50)
LAST_WORDS = 2.0  # seconds that a job has when it is stopped
KEPT = 200  # runs of which the book tells singly


class JobInterceptor(Interceptor):
    """Given to each worker."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return Execution(next)


class Heartbeats(ActivityOutboundInterceptor):
    """`activity.heartbeat` and `activity.info` as the job knows them; the book goes along unseen."""

    def heartbeat(self, *details: Any) -> None:
        if run := running.get():
            run.details = details
            return super().heartbeat(run.book.written(), *details)
        return super().heartbeat(*details)

    def info(self) -> activity.Info:
        info = super().info()
        if run := running.get():
            return replace(info, attempt=run.job.attempt, heartbeat_details=info.heartbeat_details[1:])
        return info


class Execution(ActivityInboundInterceptor):
    """Around each run of a job's function; other activities are run as they are."""

    def init(self, outbound: ActivityOutboundInterceptor) -> None:
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
        run = Running(context, book, tuple(info.heartbeat_details[1:]))
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
        try:
            result = await self._within_limits(job, run, input)
            payload = _encoded(job, result)
        except (asyncio.CancelledError, ActivityCancelled) as cancelled:
            outcome, failure = _stopped(run)
            book.note(outcome, waited, time.monotonic() - began)
            told.ended(outcome)
            if failure is None:
                raise
            run.beat()
            raise failure from cancelled
        except Exception as error:
            outcome, failure = _failed(job, run, error)
            book.note(outcome, waited, time.monotonic() - began)
            told.failed(error)
            told.ended(outcome, reason=failure.type if failure.non_retryable else None, error=failure.message)
            if failure.non_retryable:
                raise ApplicationError(
                    failure.message, book.written(), type=failure.type, non_retryable=True
                ) from error
            run.beat()
            raise failure from error
        else:
            book.note("succeeded", waited, time.monotonic() - began)
            told.ended("succeeded")
            payload.metadata[BOOK] = to_json(book.written())
            return RawValue(payload)
        finally:
            note.close()
            del book.runs[:-KEPT]
            running.reset(token)

    async def _within_limits(self, job: Job[Any, Any], run: Running, input: ExecuteActivityInput) -> Any:
        """Run the function, with a sign of life now and then; raises TimedOut, also if it does not heed its end."""
        task = asyncio.ensure_future(super().execute_activity(input))
        started = time.monotonic()
        soft, hard, overdue = job.soft_limit, job.hard_limit, False
        try:
            while not task.done():
                limit = hard if overdue else soft
                left = limit - (time.monotonic() - started)
                if left <= 0 and overdue:
                    raise TimedOut(f"{job.name} ran longer than {hard:g} s, and did not heed its soft limit")
                if left <= 0:
                    overdue = True
                    task.cancel()
                    continue
                await asyncio.wait({task}, timeout=min(left, settings().renewal))
                if not task.done():
                    run.beat()
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task}, timeout=LAST_WORDS)
            raise
        if overdue and task.cancelled():
            raise TimedOut(f"{job.name} ran longer than {soft:g} s")
        return task.result()


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
    try:
        return activity.payload_converter().to_payload(result)
    except (PydanticSerializationError, ValueError, TypeError, RuntimeError) as error:
        raise TypeError(f"{job.name} returned {type(result).__name__}, which is no JSON: {error}") from None


def _stopped(run: Running) -> tuple[str, ApplicationError | None]:
    """Why it was cancelled: somebody asked for that, or the worker stops and another shall run it."""
    details = activity.cancellation_details()
    if details and not details.cancel_requested and (details.worker_shutdown or details.paused or details.reset):
        run.book.back += 1
        return "handed_back", ApplicationError(
            "its worker stopped", type=HANDED_BACK, next_retry_delay=AT_ONCE, category=ApplicationErrorCategory.BENIGN
        )
    return "cancelled", None


def _failed(job: Job[Any, Any], run: Running, error: Exception) -> tuple[str, ApplicationError]:
    """The outcome of this run, and what the server is to do."""
    if isinstance(error, Snooze):
        run.book.snoozed += 1
        delay = timedelta(seconds=max(error.delay, 0.001))
        return "snoozed", ApplicationError(
            error.why, type=SNOOZED, next_retry_delay=delay, category=ApplicationErrorCategory.BENIGN
        )
    if isinstance(error, ApplicationError):  # as a Temporal developer says it
        after = error.next_retry_delay.total_seconds() if error.next_retry_delay else None
        said = str(error)
        error = PermanentError(said) if error.non_retryable else TransientError(said, after)
    else:
        said = f"{type(error).__name__}: {_words(error)}"
    decided = job.retry.decide(run.job.attempt - run.book.lost, error)
    if isinstance(decided, str):
        outcome = "timed_out" if decided == "timed out" else "dead"
        return outcome, ApplicationError(said, type=decided, non_retryable=True)
    delay = timedelta(seconds=max(decided, 0.001))
    return "retried", ApplicationError(said, type=type(error).__name__, next_retry_delay=delay)


def _words(error: Exception) -> str:
    try:
        return str(error)
    except Exception:
        return "(it cannot be put in words)"
