"""A job that fails for good parks: it waits for a person, who replays, discards or cancels it.

A workflow that fails has lost its place: it can only be started again from the beginning. One that parks goes on from
the step that failed; nothing is undone and nothing repeated. What is known of it is in its memo, for lists and counts.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError, FailureError
from temporalio.exceptions import TimeoutError as ActivityTimeout

from .connection import JOB_PARKED_AT, JOB_STATE
from .errors import describe, shorten, shorten_traceback
from .progress import Book
from .submission import JobId

DISCARDED = "Discarded"  # type of the failure of a job that a person gave up
REASONS = {"exhausted", "permanent", "unexpected", "timed out", "poison"}
LONGEST = 5000, 8000  # bytes of an error and of its traceback that are kept: they travel in the memo


@dataclass(frozen=True)
class Failure:
    """A step that failed for good."""

    reason: str
    error: str
    step: str
    traceback: str = ""
    book: Book | None = None
    replayable: bool = True

    def told(self) -> dict[str, Any]:
        """For the memo."""
        return {
            "reason": self.reason,
            "error": shorten(self.error, LONGEST[0]),
            "step": self.step,
            "traceback": shorten_traceback(self.traceback, LONGEST[1]),
            "replayable": self.replayable,
        }


def failure(error: ActivityError | ChildWorkflowError, step: str) -> Failure:
    """Of an activity that will not be tried again, or a child."""
    cause = error.cause
    if isinstance(cause, ApplicationError):
        reason = cause.type if cause.type in REASONS else "unexpected"
        ours = cause.details and isinstance(cause.details[0], dict) and "ended" in cause.details[0]
        book, *more = cause.details if ours else (None,)  # an activity that is no job has details of its own
        traceback = more[0] if more else _traceback(cause)
        return Failure(reason, cause.message, step, traceback, Book(**book) if book else None)
    if isinstance(cause, ActivityTimeout):
        return Failure("timed out", f"{step}: {cause}", step)
    return Failure("unexpected", f"{step}: {cause or error}", step)


def _traceback(error: ApplicationError) -> str:
    """Of what the job raised, as Python prints it."""
    raised = error.cause if isinstance(error.cause, FailureError) else error
    stack = raised.failure.stack_trace if raised.failure else ""
    return f"Traceback (most recent call last):\n{stack.rstrip()}\n{error.message}"


def _words(error: BaseException) -> str:
    """With its class, unless it is Temporal's own, whose texts say what it is."""
    while isinstance(error, ActivityError | ChildWorkflowError) and error.cause:  # these say only that it failed
        error = error.cause
    return shorten(str(error)) if isinstance(error, FailureError) else describe(error)


class Parking:
    """What every job's workflow has: its record in the memo, and what a person may do with it."""

    counts_runs: ClassVar = False
    """Whether it is a function's: then the runs of its activity are the job's."""

    def __init__(self) -> None:
        info = workflow.info()
        self.job: Mapping[str, Any] = workflow.memo_value("job", {}, type_hint=dict)
        self.before: list[dict[str, Any]] = workflow.memo_value("before", [], type_hint=list)
        self.waited = (workflow.now() - info.start_time).total_seconds() - (self.job.get("delay") or 0)
        self.book = Book(started_at=workflow.now().timestamp())
        self.skipped = False
        self.size: int | None = None  # of the result's JSON
        self.reported: dict[str, Any] = {}
        self.waiting_for: str | None = None
        self._discarded: str | None = None
        self.undoing = 0  # sagas that take back what they did
        self._parked: list[Failure] = []
        self._told: dict[str, Any] = {}  # the outcome with which it parked, whose runs are counted

    @property
    def generation(self) -> int:
        """1, and one more for each replay."""
        return len(self.before) + 1

    def carried(self) -> dict[str, Any]:
        """What each of its activities is told of the job."""
        info = workflow.info()
        keyed = info.first_execution_run_id if self.job.get("key") else None
        job = {name: value for name, value in self.job.items() if name in ("key", "trace_id", "traceparent", "root")}
        due = info.start_time.timestamp() + (self.job.get("delay") or 0)
        job.setdefault("key", info.workflow_id)
        more = {"id": str(JobId(info.workflow_id, keyed, self.generation)), "queue": info.task_queue, "due_at": due}
        return {"trace_id": info.run_id.replace("-", ""), **job, **more, "generation": self.generation}

    async def park(self, failed: Failure) -> None:
        """Wait for a person; returns when it is to be tried again, raises when it is given up."""
        generation, now = self.generation, workflow.now()
        self._parked.append(failed)
        if self.counts_runs and failed.book:
            self.book = failed.book
        if self.job.get("scheduled"):
            raise ApplicationError(failed.error, type=failed.reason, non_retryable=True)
        self._told = self._outcome("failed")
        workflow.upsert_memo({"outcome": self._told})
        workflow.upsert_search_attributes([JOB_STATE.value_set("parked"), JOB_PARKED_AT.value_set(now)])
        try:
            await workflow.wait_condition(lambda: self.generation > generation or self._discarded is not None)
        except asyncio.CancelledError:
            several = len(self._parked) > 1 and workflow.patched("one-of-several-parked")
            self._parked = [other for other in self._parked if other is not failed] if several else []
            if several:  # only this one is given up, by a time-out or an `asyncio` cancel
                workflow.upsert_memo({"outcome": self._outcome("failed")})
            else:
                self.list_as_waiting()
            raise
        if self._discarded is not None:
            raise ApplicationError(f"discarded: {self._discarded}", type=DISCARDED, non_retryable=True)

    def ended(self, state: str, error: BaseException | None = None) -> None:
        """Write down how it ended, in the same step in which it ends."""
        if error and not self._parked:
            self._parked.append(Failure("unexpected", _words(error), workflow.info().workflow_type))
        workflow.upsert_memo({"outcome": self._outcome(state)})

    def _outcome(self, state: str) -> dict[str, Any]:
        book, now = self.book, workflow.now().timestamp()
        if not book.runs and not self._told:  # a workflow of steps counts as one run
            outcome = "dead" if state == "failed" else state
            book.note(outcome, max(0.0, self.waited), now - (book.started_at or now))
        failed = self._parked[-1] if self._parked else None
        attempts = failed.book if failed and failed.book else book
        return {
            "state": "cancelled" if self.skipped else state,
            "generation": self.generation,
            "attempts": attempts.attempt(attempts.ended),
            "started_at": book.started_at,
            "finished_at": now,
            "runs": book.runs if not self._told else [],
            "progress": {**self.reported, **book.progress},
            "size": self.size,
            "first_run_id": workflow.info().first_execution_run_id,
            **(failed.told() if failed else {}),
        }

    @workflow.update
    def replay(self, generation: int) -> int:
        """Try again what failed, and go on from there."""
        self.before.append(self._told)
        self._told = {}
        self._parked.clear()
        self.book, self.waited = Book(started_at=workflow.now().timestamp()), 0.0
        workflow.upsert_memo({"before": self.before, "outcome": None})
        self.list_as_waiting()
        return self.generation

    @replay.validator
    def _can_be_replayed(self, generation: int) -> None:
        self._check_parked()
        if generation != self.generation:
            raise ApplicationError(f"this is generation {self.generation}", type="NotADeadLetter")
        if not all(failed.replayable for failed in self._parked):
            raise ApplicationError("it cannot be read, so it cannot be run", type="NotReplayable")

    @workflow.update
    def discard(self, reason: str) -> None:
        """Give up; what a saga has done is undone."""
        self._discarded = reason
        workflow.upsert_search_attributes([JOB_STATE.value_set("discarded"), JOB_PARKED_AT.value_unset()])

    @discard.validator
    def _can_be_discarded(self, reason: str) -> None:
        self._check_parked()

    def _check_parked(self) -> None:
        if not self._parked or self._discarded is not None:
            raise ApplicationError("it is no dead letter", type="NotADeadLetter")

    def list_as_waiting(self) -> None:
        """Since now, or as one that waits for nobody."""
        if self.waiting_for is None:
            shown = [JOB_STATE.value_unset(), JOB_PARKED_AT.value_unset()]
        else:
            shown = [JOB_STATE.value_set("waiting"), JOB_PARKED_AT.value_set(workflow.now())]
        workflow.upsert_search_attributes(shown)
