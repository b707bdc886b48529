"""The result backend: the one place every end of a job passes, in whichever process it is noticed.

A pool process stores results and failures, the main process stores time-outs, lost workers and revocations. Each
becomes one call of finish.lua, so that result, state, dead letter, idempotency key and counters change together.
"""

import traceback as tracebacks
from typing import Any

from celery import states
from celery.app.task import Context
from celery.backends.redis import RedisBackend, SentinelBackend

from ..contract import State
from . import dead_letters
from .record import records

STATES: dict[str, tuple[State, str]] = {  # Celery's state: ours, and the outcome that is counted
    states.SUCCESS: ("succeeded", "succeeded"),
    states.FAILURE: ("failed", "dead"),
    states.RETRY: ("retrying", "retried"),
    states.REVOKED: ("cancelled", "cancelled"),
}


class JobBackend(RedisBackend):
    """For redis:// and rediss://."""

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: str | None = None, request: Any = None, **kwargs: Any
    ) -> Any:
        if state not in STATES or not isinstance(request, Context):
            return super()._store_result(task_id, result, state, traceback, request, **kwargs)
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        meta["task_id"] = task_id
        ours, outcome = STATES[state]
        error = dead_letters.describe(result) if state in states.EXCEPTION_STATES and state != states.REVOKED else None
        letter = ""
        if state == states.FAILURE and request.delivery_info:  # later steps of a failed chain were never delivered
            reason = dead_letters.reason(request, error or "")
            letter = dead_letters.encode(request, reason, error or "", traceback)
            outcome = "timed_out" if reason == "timed out" else outcome
        records().finish(
            request,
            ours,
            outcome,
            result=str(self.encode(meta)),
            letter=letter,
            error=error,
            result_size=request.get("result_size"),
            due_at=request.get("due_at"),
        )
        return result

    def mark_as_failure(
        self, task_id: str, exc: Any, traceback: str | None = None, request: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        """A failed part whose job is declared with `outcome` counts for the fan-in as an answer, not as its end."""
        task = self.app.tasks.get(request.get("task")) if isinstance(request, Context) else None
        if not (request and request.chord and getattr(task, "outcome", False)):
            super().mark_as_failure(task_id, exc, traceback, request, *args, **kwargs)
            return
        if traceback is None:
            traceback = "".join(tracebacks.format_exception(exc))
        self.store_result(task_id, exc, states.FAILURE, traceback=traceback, request=request)
        part = {"ok": False, "error": dead_letters.describe(exc), "job_id": task_id}
        self.on_chord_part_return(request, states.SUCCESS, part)

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Nothing: Celery subscribes to each result it may never read; `AsyncResult.get()` subscribes by itself."""


class SentinelJobBackend(JobBackend, SentinelBackend):
    """For sentinel://."""
