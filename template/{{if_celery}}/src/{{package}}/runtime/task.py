"""The base class of every task: asks before it runs, retries by policy, waits without spending a try, ends exactly once.

An ordinary Celery task runs whatever is delivered, as often as it is delivered. This one asks the job's record first (one
round trip) and hands its end to `JobBackend` (one more), which is what makes late acknowledgement safe.
"""

import hashlib
import inspect
import json
import random
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar

import structlog
from celery import Signature, Task
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from celery.result import AsyncResult
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from ..contract import IdempotencyConflict
from . import results
from .connection import UNAVAILABLE, patiently
from .progress import JobCancelled
from .record import Verdict, records
from .retry import NO_RETRY, PermanentError, PoisonError, RetryPolicy, Snooze

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_PRIORITY = 5
log = structlog.get_logger(__name__)


class JobTask(Task, Generic[P, R]):
    """A Celery task with the service's patterns; `@job` sets the options, `app.task` works as well."""

    abstract = True
    Request = f"{__package__}.request:JobRequest"

    job_queue: str | None = None
    retry_policy: RetryPolicy = NO_RETRY
    key_of: Callable[..., str] | None = None
    singleton: str | None = None
    outcome: bool = False
    arguments: type[BaseModel] | None = None  # the parameters as a model; None if they cannot be one (*args)
    payload_parameter: str | None = None  # the only parameter, when that is a model

    # Submitting

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult:
        """Queue the job, type-checked like a call; `apply_async` takes the options (countdown, queue, priority 0–9 …)."""
        return self.apply_async(args, kwargs)

    def apply_async(self, args: Any = None, kwargs: Any = None, task_id: str | None = None, **options: Any) -> AsyncResult:
        """As in Celery; also `idempotency_key`. The same key answers with the first job, IdempotencyConflict if that had
        another payload."""
        return self.send(args, kwargs, task_id, **options)[0]

    def send(
        self,
        args: Any = None,
        kwargs: Any = None,
        task_id: str | None = None,
        *,
        idempotency_key: str | None = None,
        restart: bool = False,
        replay_of: str | None = None,
        headers: dict[str, Any] | None = None,
        **options: Any,
    ) -> tuple[AsyncResult, bool]:
        """`apply_async` that also says whether this is a new job. `restart`: the key may be taken from a job that ended."""
        if "job" in (headers or {}) or self.app.conf.task_always_eager:
            return super().apply_async(args, kwargs, task_id, headers=headers, **options), True
        args, kwargs = self.dump(args or (), kwargs or {})
        key = idempotency_key or (self.key_of(*self.values(args, kwargs)) if self.key_of else None)
        fingerprint = hashlib.sha256(to_json([args, kwargs])).hexdigest()[:32] if key else ""
        options = self.app.amqp.router.route(options, self.name, args, kwargs, self)
        priority = options.get("priority")
        options["priority"] = priority = DEFAULT_PRIORITY if priority is None else priority
        parent = self.app.current_worker_task
        try_until_sent = patiently if parent else _once
        now, job_id = time.time(), task_id or str(uuid.uuid4())
        trace_id = ((parent.request.get("job") or {}).get("trace_id") if parent else None) or uuid.uuid4().hex
        eta = options.get("eta")
        due_at = eta.timestamp() if isinstance(eta, datetime) else now + float(options.get("countdown") or 0)
        fields = {
            "state": "scheduled" if due_at > now else "queued",
            "queue": options["queue"].name,
            "priority": priority,
            "submitted_at": now,
            "due_at": due_at if due_at > now else None,
            "parent": options.get("parent_id") or (parent.request.id if parent else None),
            "root": options.get("root_id") or (parent.request.root_id if parent else job_id),
            "trace_id": trace_id,
            "replay_of": replay_of,
        }
        claimed = key if task_id is None or replay_of else None  # a step of a workflow claims its key when it starts
        take_over = restart or replay_of is not None
        reserve = partial(
            records().reserve, job_id, self.name, claimed, fingerprint, fields, self._followers(options), take_over=take_over
        )
        holder, held = try_until_sent(reserve)
        if holder != job_id:
            if held != fingerprint:
                raise IdempotencyConflict(f"key {key!r} was used for job {holder} with another payload; use a new key")
            return self.AsyncResult(holder), False
        envelope = {"key": key, "fingerprint": fingerprint, "submitted_at": now, "trace_id": trace_id, "snoozes": 0}
        publish = partial(
            super().apply_async, args, kwargs, job_id, headers={**(headers or {}), "job": envelope}, **options
        )
        try:
            result = try_until_sent(publish)
        except Exception:
            _forgiving(partial(records().withdraw, job_id, self.name, claimed))
            raise
        _forgiving(partial(records().confirm, job_id, self.name, claimed, fields["queue"]))
        return result, True

    def signature(self, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Signature:
        """As in Celery (`.s()` and `.si()` come here); models become JSON, since later steps travel inside earlier ones."""
        return super().signature(tuple(to_jsonable_python(args or ())), to_jsonable_python(kwargs), *rest, **options)

    @staticmethod
    def _followers(options: dict[str, Any]) -> dict[str, str]:
        """Jobs that this one brings about later, by id: the next steps of a chain, the fan-in of a chord."""
        steps = [*(options.get("chain") or []), *filter(None, [options.get("chord")])]
        return {step["options"]["task_id"]: step["task"] for step in steps if step["options"].get("task_id")}

    def values(self, args: Any, kwargs: Any) -> tuple[Any, ...]:
        """The arguments as the function will get them, in order; raises pydantic.ValidationError."""
        bound = inspect.signature(self.run).bind(*args, **kwargs)
        if self.arguments is None:
            return (*bound.args, *bound.kwargs.values())
        model = self.arguments.model_validate(bound.arguments)
        return tuple(getattr(model, name) for name in self.arguments.model_fields)

    def dump(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments as JSON values; raises pydantic.ValidationError if they do not fit."""
        if self.arguments is None:
            return to_jsonable_python(args), to_jsonable_python(kwargs)
        names = self.arguments.model_fields
        return (), {name: to_jsonable_python(v) for name, v in zip(names, self.values(args, kwargs), strict=True)}

    def payload(self, args: Any, kwargs: Any) -> Any:
        """What callers call the payload: the one model, or all arguments by name."""
        if self.arguments is None:
            return kwargs or args
        values = dict(zip(self.arguments.model_fields, self.values(args, kwargs), strict=True))
        return values[self.payload_parameter] if self.payload_parameter else values

    # Running

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        request = self.request
        if request.called_directly or request.is_eager:
            return self.run(*args, **kwargs)
        request.owner = uuid.uuid4().hex
        verdict = patiently(self._may_start)
        began = time.monotonic()
        try:
            match verdict.action:
                case "run":
                    return self._run(args, kwargs)
                case "duplicate":
                    return records_result(verdict.detail)
                case "poison":
                    raise PoisonError(f"killed its worker {verdict.detail} times")
                case "cancelled":
                    raise JobCancelled(request.id)
                case "busy":
                    self._send_again(int(verdict.detail) / 1000 + random.random())
                case "skipped":
                    self._end("cancelled", "skipped", error=f"skipped: {verdict.detail} is still running")
            log.info("delivery dropped", job=self.name, job_id=request.id, why=verdict.action)
            raise Ignore
        except Snooze as snooze:
            self._snooze(snooze.delay, snooze.why)
        except (Retry, Ignore, Reject):
            raise
        except JobCancelled:
            self._cancelled()
        except SoftTimeLimitExceeded as error:
            if records().cancel_requested(request.id):
                self._cancelled()
            if time.monotonic() - began < (self.soft_time_limit or 0) - 0.5:
                self._snooze(0, "interrupted")  # meant for the job before this one
            self._fail(error)
        except Exception as error:
            self._fail(error)

    def _run(self, args: Any, kwargs: Any) -> Any:
        request = self.request
        queue = (request.delivery_info or {}).get("routing_key")
        with structlog.contextvars.bound_contextvars(
            job_id=request.id, job=self.name, attempt=request.retries + 1, queue=queue, trace_id=self._envelope["trace_id"]
        ):
            args = tuple(results.resolve(value, request.root_id) for value in args)
            if self.arguments is None:
                result = self.run(*args, **kwargs)
            else:
                try:
                    values = self.values(args, kwargs)
                except (TypeError, ValueError) as error:
                    raise PermanentError(f"the payload does not fit {self.name}: {error}") from error
                result = self.run(**dict(zip(self.arguments.model_fields, values, strict=True)))
        try:
            encoded = to_json({"ok": True, "value": result} if self.outcome else result)
        except PydanticSerializationError as error:
            raise PermanentError(f"{self.name} returned {type(result).__name__}, which is not JSON: {error}") from error
        return results.keep(request, encoded)

    @property
    def _envelope(self) -> dict[str, Any]:
        now = time.time()
        return self.request.get("job") or {"trace_id": self.request.id, "submitted_at": now, "snoozes": 0}

    def seq(self) -> int:
        """Which message of this job is running: grows with each retry and snooze."""
        return self.request.retries + self._envelope["snoozes"]

    def _may_start(self) -> Verdict:
        request, envelope = self.request, self._envelope
        submitted = envelope["submitted_at"]
        return records().start(
            request.id,
            name=self.name,
            queue=(request.delivery_info or {}).get("routing_key") or "",
            owner=request.owner,
            seq=self.seq(),
            key=envelope.get("key"),
            fingerprint=envelope.get("fingerprint", ""),
            singleton=self.singleton,
            due_at=datetime.fromisoformat(request.eta).timestamp() if request.eta else submitted,
            fields={
                "submitted_at": submitted,
                "priority": (request.delivery_info or {}).get("priority") or DEFAULT_PRIORITY,
                "parent": request.parent_id if request.parent_id != request.id else None,  # itself after a retry
                "root": request.root_id,
                "trace_id": envelope["trace_id"],
            },
        )

    def _send_again(self, delay: float, *, retries: int | None = None, snoozes: int | None = None) -> None:
        """Send this job's message once more, to be due in `delay` seconds."""
        envelope = {**self._envelope, "snoozes": self._envelope["snoozes"] if snoozes is None else snoozes}
        again = self.signature_from_request(
            countdown=delay,
            retries=self.request.retries if retries is None else retries,
            headers={**(self.request.headers or {}), "job": envelope},
        )
        patiently(again.apply_async)

    def _snooze(self, delay: float, why: str) -> NoReturn:
        self._send_again(delay, snoozes=self._envelope["snoozes"] + 1)
        self._end("scheduled", "snoozed", message=why, due_at=time.time() + delay)
        raise Ignore

    def _cancelled(self) -> NoReturn:
        self.backend.mark_as_revoked(self.request.id, "cancelled", request=self.request)
        raise Ignore

    def _fail(self, error: BaseException) -> NoReturn:
        decision = self.retry_policy.decide(self.request.retries + 1, error)
        if isinstance(decision, str):
            self.request.reason = decision
            raise error
        self._send_again(decision, retries=self.request.retries + 1)
        self.request.due_at = time.time() + decision
        raise Retry(exc=error, when=decision) from error

    def _end(self, state: Any, outcome: str, **fields: Any) -> None:
        self.backend.finish(self.request, self, state, outcome, fields=fields)


def records_result(job_id: str) -> Any:
    """The stored result of another job."""
    return json.loads(patiently(partial(records().client.get, f"celery-task-meta-{job_id}")) or '{"result": null}')["result"]


def _once(call: Callable[[], Any]) -> Any:
    return call()


def _forgiving(call: Callable[[], None]) -> None:
    """For what corrects itself within seconds if Redis is away just now."""
    try:
        call()
    except UNAVAILABLE:
        log.warning("Redis did not answer; the reservation ends by itself")
