"""Keep small results in Redis and large ones elsewhere; and let every end of a job pass one place, the result backend.

Redis is memory, shared by all queues: over 64 KiB it holds a reference (claim check). Pool processes store results and
failures, the main process time-outs, lost workers and revocations: each is one step of record.lua.
"""

import traceback as tracebacks
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any, Generic, TypeVar

from celery import states
from celery.app.task import Context
from celery.backends.redis import RedisBackend, SentinelBackend
from celery.exceptions import ChordError, TaskError, TaskRevokedError
from pydantic import BaseModel
from pydantic_core import from_json, to_json

from ..contract import State
from ..large_results import LargeResults, open_large_results
from ..settings import settings
from . import dead_letters, errors, workflows
from .connection import patiently
from .record import records, result_key
from .serializer import loads

REFERENCE = "$ref"
T = TypeVar("T")


class Outcome(BaseModel, Generic[T]):
    """What a fan-in hears of a part declared with `@job(outcome=True)`: its value, or its error and its job's id."""

    ok: bool
    value: T | None = None
    error: str | None = None
    job_id: str | None = None


@cache
def large_results() -> LargeResults:
    """Where this process keeps large results."""
    return open_large_results(settings().results_url)


def keep(request: Context, encoded: bytes) -> Any:
    """The value to store in Redis: the result, or a reference if it is larger than `inline_result_max`.

    A result that looks like a reference is stored like a large one, or it would show another job's.
    """
    request.update(result_size=len(encoded))
    small = len(encoded) <= settings().inline_result_max
    if small and reference(value := from_json(encoded)) is None:
        return value
    large_results().put(str(request.id), encoded)
    return {REFERENCE: request.id, "bytes": len(encoded)}


def reference(value: Any) -> str | None:
    """The job whose large result this value stands for."""
    return value[REFERENCE] if isinstance(value, dict) and value.keys() == {REFERENCE, "bytes"} else None


def resolve(value: Any, root: str | None) -> Any:
    """A large result handed from step to step of one workflow, loaded, also from a part to the fan-in; anything else as
    it is.

    Only within a workflow, so that a payload cannot name another caller's result.
    """
    if isinstance(value, list) and any(map(reference, value)):
        return [resolve(part, root) for part in value]
    job_id = reference(value)
    if job_id is None or root is None or patiently(partial(records().field, job_id, "root")) != root:
        return value
    return from_json(b"".join(large_results().chunks(job_id)))


def stored(job_id: str) -> Any:
    """What Redis holds as the result of a job that succeeded; None when its time is over."""
    meta = records().client.get(result_key(job_id))
    return loads(meta)["result"] if meta else None


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
        if state not in STATES or not isinstance(request, Context) or task_id != request.id:
            return super()._store_result(task_id, result, state, traceback, request, **kwargs)
        meta = {  # Celery's own; its way to make it takes three times as long
            "status": state,
            "result": result,
            "traceback": traceback,
            "children": self.current_task_children(request),
            "date_done": datetime.now(UTC).isoformat() if state in self.READY_STATES else None,
            "task_id": task_id,
            **{name: value for name, value in (("group_id", request.group), ("parent_id", request.parent_id)) if value},
        }
        ours, outcome = STATES[state]
        error = None
        if state in states.EXCEPTION_STATES and state != states.REVOKED:
            error = request.get("error") or dead_letters.describe(result)
            meta["traceback"] = traceback = request.get("error_traceback") or errors.shorten_traceback(traceback or "")
        outcome, error = request.get("outcome") or outcome, request.get("why") or error
        letter = ""
        if state == states.FAILURE and request.delivery_info:  # later steps of a failed chain were never delivered
            reason = dead_letters.reason(request, error or "")
            letter = dead_letters.encode(request, reason, error or "", traceback)
            outcome = "timed_out" if reason == "timed out" else outcome
        details = {"error": error, "result_size": request.get("result_size"), "due_at": request.get("due_at")}
        plain = state == states.SUCCESS and request.get("result_size")  # `keep` has made it plain JSON
        encoded = to_json(meta).decode() if plain else ""
        if not plain or '"__type__"' in encoded:
            encoded = str(self.encode(meta))
        ended = records().finish(request, ours, outcome, result=encoded, letter=letter, **details)
        request.update(ended_before=not ended)
        return result

    def mark_as_done(self, task_id: str, result: Any, request: Any = None, *args: Any, **kwargs: Any) -> None:
        """As in Celery; `ignore_result` leaves the result out, not the end."""
        if not isinstance(request, Context):
            super().mark_as_done(task_id, result, request, *args, **kwargs)
            return
        self.store_result(task_id, None if request.ignore_result else result, states.SUCCESS, request=request)
        if request.chord:
            self.on_chord_part_return(request, states.SUCCESS, result)

    def mark_as_failure(
        self, task_id: str, exc: Any, traceback: str | None = None, request: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        """As in Celery; what waits for the job ends in workflows.py."""
        if not isinstance(request, Context):
            super().mark_as_failure(task_id, exc, traceback, request, *args, **kwargs)
            return
        if traceback is None:
            traceback = "".join(tracebacks.format_exception(exc))
        self.store_result(task_id, exc, states.FAILURE, traceback=traceback, request=request)
        self._end(request, exc, "failed", request.get("error") or dead_letters.describe(exc))

    def mark_as_revoked(self, task_id: str, reason: str = "", request: Any = None, *args: Any, **kwargs: Any) -> None:
        """As in Celery, and later steps and error callbacks hear of it, too."""
        if not isinstance(request, Context):
            super().mark_as_revoked(task_id, reason, request, *args, **kwargs)
            return
        error = TaskRevokedError(reason)
        request.update(why=request.get("why") or reason)
        self.store_result(task_id, error, states.REVOKED, request=request)
        self._end(request, error, "cancelled", reason or "cancelled")

    def _end(self, request: Context, error: BaseException, state: str, text: str) -> None:
        if request.get("ended_before"):
            self.repeat_end(request)
        else:
            self._reliably(partial(workflows.end, self, request, error, state, text))

    def repeat_end(self, request: Context) -> float:
        """Let what waits for an ended job know again: its worker may have died before it did.

        Returns seconds after which to repeat it: another process, perhaps a dead one, is sending the fan-in.
        """
        state, error, replayed_as = records().ended(str(request.id))
        if state == "succeeded" and request.chord:
            self.on_chord_part_return(request, states.SUCCESS, stored(str(request.id)))
        elif state in ("failed", "cancelled") and not replayed_as:
            exc = TaskRevokedError(error or state) if state == "cancelled" else self.get_result(request.id)
            exc = exc if isinstance(exc, BaseException) else TaskError(error)
            self._reliably(partial(workflows.end, self, request, exc, state, error or state))
        claim = self.get_key_for_group(request.group, ".c") if request.chord else None
        return self.client.pttl(claim) / 1000 if claim and self.client.get(claim) not in (None, b"done") else 0.0

    def on_chord_part_return(self, request: Any, state: str, result: Any, *args: Any, **kwargs: Any) -> None:
        """As in Celery; a job waits for Redis."""
        self._reliably(partial(super().on_chord_part_return, request, state, result, *args, **kwargs))

    def chord_error_from_stack(self, callback: Any, exc: BaseException | None = None) -> None:
        """The fan-in does not run, since a part did not succeed; an outer fan-in and later steps end with it."""
        workflows.end_fan_in(self, callback, exc or ChordError("a part did not succeed"))

    def encode_failure(self, job_id: str, error: BaseException) -> str:
        """Celery's result document of a job that did not run because of this error."""
        ended = {"status": states.FAILURE, "result": self.encode_result(error, states.FAILURE), "traceback": None}
        return str(
            self.encode({**ended, "children": [], "date_done": datetime.now(UTC).isoformat(), "task_id": job_id})
        )

    def _reliably(self, call: Callable[[], None]) -> None:
        patiently(call) if self.app.current_worker_task else call()

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Nothing: Celery subscribes to each result it may never read; `AsyncResult.get()` subscribes by itself."""


class SentinelJobBackend(JobBackend, SentinelBackend):
    """For sentinel://."""
