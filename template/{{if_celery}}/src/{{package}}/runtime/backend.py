"""The result backend: the one place every end of a job passes, in whichever process it is noticed.

A pool process stores results and failures, the main process stores time-outs, lost workers and revocations. Each becomes
one call of finish.lua, so that result, state, dead letter, idempotency key and counters change together.
"""

import traceback as tracebacks
from typing import Any

from celery import Task, states
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


class JobBackendMixin:
    """What our backends add to Celery's."""

    def finish(
        self: Any,
        request: Context,
        task: Task | None,
        state: State,
        outcome: str,
        *,
        result: str = "",
        dead_letter: str = "",
        fields: dict[str, Any] | None = None,
    ) -> bool:
        """Write down how a run ended; False if it had ended before."""
        envelope = request.get("job") or {}
        return records().finish(
            request.id,
            state,
            name=request.get("task") or "",
            queue=(request.delivery_info or {}).get("routing_key") or "",
            outcome=outcome,
            owner=request.get("owner") or "",
            result=result,
            key=envelope.get("key"),
            singleton=getattr(task, "singleton", None),
            seq=(request.retries or 0) + envelope.get("snoozes", 0) if state in ("retrying", "scheduled") else "",
            dead_letter=dead_letter,
            fields=fields or {},
        )

    def _store_result(
        self: Any, task_id: str, result: Any, state: str, traceback: str | None = None, request: Any = None, **kwargs: Any
    ) -> Any:
        if state not in STATES or not isinstance(request, Context):
            return super()._store_result(task_id, result, state, traceback, request, **kwargs)  # ty: ignore[unresolved-attribute]
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        meta["task_id"] = task_id
        task = self.app.tasks.get(request.get("task"))
        ours, outcome = STATES[state]
        fields: dict[str, Any] = {"result_size": request.get("result_size"), "due_at": request.get("due_at")}
        letter = ""
        if state == states.FAILURE:
            fields["error"] = dead_letters.describe(result)
            delivered = bool(request.delivery_info)  # later steps of a failed chain never were
            letter = dead_letters.encode(request, task, result, traceback) if delivered else ""
            if dead_letters.reason(request, result) == "timed out":
                outcome = "timed_out"
        elif state == states.RETRY:
            fields["error"] = dead_letters.describe(result)
        self.finish(request, task, ours, outcome, result=self.encode(meta), dead_letter=letter, fields=fields)
        return result

    def mark_as_failure(self: Any, task_id: str, exc: Any, traceback: str | None = None, request: Any = None, **kwargs: Any) -> None:
        """A failed part whose job is declared with `outcome` counts for the fan-in as an answer, not as its end."""
        task = self.app.tasks.get(request.get("task")) if isinstance(request, Context) else None
        if not (request and request.chord and getattr(task, "outcome", False)):
            return super().mark_as_failure(task_id, exc, traceback, request=request, **kwargs)  # ty: ignore[unresolved-attribute]
        if traceback is None:
            traceback = "".join(tracebacks.format_exception(exc))
        self.store_result(task_id, exc, states.FAILURE, traceback=traceback, request=request)
        part = {"ok": False, "error": dead_letters.describe(exc), "job_id": task_id}
        self.on_chord_part_return(request, states.SUCCESS, part)

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Celery subscribes to every result when it sends, which a long-lived API never reads; `AsyncResult.get()`
        subscribes by itself."""


class JobBackend(JobBackendMixin, RedisBackend):
    """For redis:// and rediss://."""


class SentinelJobBackend(JobBackendMixin, SentinelBackend):
    """For sentinel://."""
