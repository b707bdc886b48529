"""Send a job so that nothing is half-done: its record and key are reserved, its message sent, then both made to last.

A sender that dies in between leaves a reservation of seconds, never a key that blocks for a day; a caller that
repeats a request under its key gets the first job.
"""

import hashlib
import inspect
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from functools import cached_property, partial
from typing import Any, Generic, ParamSpec, TypeVar

import structlog
from celery import Task
from celery.canvas import Signature
from celery.result import AsyncResult
from pydantic import BaseModel
from pydantic_core import to_json

from .. import telemetry
from ..contract import IdempotencyConflict, Submission
from ..documents import jsonable
from .bounds import checked_delay, checked_id, checked_key, checked_priority
from .connection import UNAVAILABLE, patiently
from .record import is_job_id, records
from .serializer import dumps
from .workflows import followers

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

log = structlog.get_logger(__name__)
KEPT = frozenset({
    "chain", "chord", "expires", "group_id", "group_index", "link", "link_error", "parent_id", "root_id", "shadow",
    "soft_time_limit", "time_limit",
})  # fmt: skip
"""Options that a message has besides queue, priority and time: for one that is to be sent again (ops/repair.py)."""


class SubmittableTask(Task, Generic[P, R]):
    """The sending half of `JobTask`."""

    abstract = True
    job_queue: str | None = None
    job_priority: int = 5
    key_of: Callable[..., str] | None = None
    arguments: type[BaseModel] | None = None  # the parameters as a model; None if they cannot be one (*args)
    payload_parameter: str | None = None  # the only parameter, when that is a model itself

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Submission:
        """Queue the job, type-checked like a call; `apply_async` takes options (countdown, queue, priority 0–9 …)."""
        result, created = self.send(args, kwargs)
        return Submission(id=str(result.id), created=created)

    def apply_async(self, args: Any = None, kwargs: Any = None, task_id: Any = None, *rest: Any, **options: Any) -> Any:
        """As in Celery, and `idempotency_key`: the same key answers with the first job.

        Raises IdempotencyConflict if that had another payload, pydantic.ValidationError if this one does not fit.
        """
        options.update(zip(("producer", "link", "link_error", "shadow"), rest, strict=False))
        return self.send(args, kwargs, task_id, **options)[0]

    def signature(self, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Signature:
        """As in Celery (`.s()` and `.si()` come here); models become JSON: later steps travel inside earlier ones."""
        return super().signature(tuple(jsonable(args or ())), jsonable(kwargs), *rest, **options)

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
        """`apply_async` that also says whether this is a new job. `restart`: a job that ended gives up its key."""
        if "job" in (headers or {}) or self.app.conf.task_always_eager:  # sent again by the job itself
            return super().apply_async(args, kwargs, task_id, headers=headers, **options), True
        if (serializer := options.get("serializer") or self.serializer) != "json":
            raise ValueError(f"job {self.name}: no worker reads messages of serializer={serializer!r}: leave that out")
        values = self.bind_arguments(args or (), kwargs or {})
        if values is not None:
            args, kwargs = (), jsonable(values)
        key = checked_key(idempotency_key or (self.key_of and values is not None and self.key_of(**values)))
        fingerprint = hashlib.sha256(to_json([args, kwargs])).hexdigest()[:32] if key else ""
        options = self.app.amqp.router.route(options, self.name, args, kwargs, self)
        if (hard := options.get("time_limit")) and not options.get("soft_time_limit"):
            options["soft_time_limit"] = hard * 0.9  # billiard looks at the hard limit only after the soft one
        if options.get("priority") is None:
            options["priority"] = self.job_priority
        checked_priority(options["priority"])
        checked_delay(max(options.get("countdown") or 0, 0))  # a negative one is due at once, as in Celery
        parent = self.app.current_worker_task
        reliably = patiently if parent else _once  # a job waits for the broker, a caller hears of it
        job_id = checked_id(str(task_id)) if task_id else str(uuid.uuid4())
        if not is_job_id(job_id):
            raise ValueError(f"{job_id!r} cannot be a job's id: choose a UUID")
        delayed = bool(options.get("countdown") or options.get("eta"))
        with telemetry.sending("celery", str(self.name), options["queue"].name, job_id, delayed=delayed) as carried:
            head = {"key": key, "fingerprint": fingerprint, "submitted_at": time.time(), "snoozes": 0, **carried}
            record = self._record(job_id, head, options, parent, replay_of)
            record["sent"] = dumps([args, kwargs, head, {name: options[name] for name in KEPT & options.keys()}])
            claimed = key if task_id is None or replay_of else ""  # a step of a workflow claims its key when it starts
            reserve = partial(records().reserve, job_id, str(self.name), claimed, fingerprint, record)
            take = partial(reserve, followers(options), take_over=bool(restart or replay_of))
            holder, held, sent = reliably(take)
            created = holder == job_id
            if not created:
                if held != fingerprint:
                    raise IdempotencyConflict(
                        f"key {key!r} was used for job {holder} with another payload; use a new key"
                    )
                if sent:
                    return self.AsyncResult(holder), False
                job_id = holder
            headers = {**(headers or {}), "job": head}
            try:
                result = reliably(partial(super().apply_async, args, kwargs, job_id, headers=headers, **options))
            except Exception:
                if _forgiving(partial(records().withdraw, job_id, str(self.name), claimed)) is not False:
                    raise
                result = self.AsyncResult(job_id)  # only the answer was lost: it runs already
            delay = max(0, int(record.get("due_at", 0) - record["submitted_at"]))
            _forgiving(partial(records().confirm, job_id, str(self.name), claimed, record["queue"], delay))
            return result, created

    def _record(
        self, job_id: str, head: dict[str, Any], options: dict[str, Any], parent: Any, replay_of: str | None
    ) -> dict[str, Any]:
        now, eta = head["submitted_at"], options.get("eta")
        due_at = eta.timestamp() if isinstance(eta, datetime) else now + float(options.get("countdown") or 0)
        record = {
            "name": self.name,
            "state": "scheduled" if due_at > now else "queued",
            "queue": options["queue"].name,
            "priority": options["priority"],
            "submitted_at": now,
            "due_at": due_at if due_at > now else None,
            "key": head["key"] or None,
            "parent": options.get("parent_id") or (parent.request.id if parent else None),
            "root": options.get("root_id") or (parent.request.root_id if parent else job_id),
            "trace_id": head["trace_id"],
            "replay_of": replay_of,
        }
        return {field: value for field, value in record.items() if value is not None}

    @cached_property
    def parameters(self) -> inspect.Signature:
        return inspect.signature(self.run)

    def bind_arguments(self, args: Any, kwargs: Any) -> dict[str, Any] | None:
        """The arguments by name, as the function will get them; None where they cannot be bound (*args).

        Raises TypeError or pydantic.ValidationError if they do not fit.
        """
        if self.arguments is None:
            return None
        bound = self.parameters.bind(*args, **kwargs).arguments if args else kwargs
        model = self.arguments.model_validate(bound)
        return {name: getattr(model, name) for name in self.arguments.model_fields}

    def payload(self, args: Any, kwargs: Any) -> Any:
        """What callers call the payload: the one model, or all arguments by name."""
        values = self.bind_arguments(args, kwargs) or kwargs or args
        return values[self.payload_parameter] if self.payload_parameter else values


def _once(call: Callable[[], Any]) -> Any:
    return call()


def _forgiving(call: Callable[[], T]) -> T | None:
    """For what corrects itself within seconds if Redis is away just now; None then."""
    try:
        return call()
    except UNAVAILABLE:
        log.warning("Redis did not answer; the reservation ends by itself")
        return None
