"""Send a job in one atomic step: record, idempotency key, message and queue together, or nothing.

arq's `_job_id` alone makes a key that lasts until the result expires and blocks a retry of what failed; a key written
by a second command is left behind by a sender that dies in between.
"""

import hashlib
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from arq.jobs import Job as ArqJob
from pydantic_core import to_json

from .. import telemetry
from ..contract import IdempotencyConflict, Submission
from ..documents import jsonable
from ..queues import DEFAULT_QUEUE
from .bounds import checked_delay, checked_id, checked_key, checked_priority
from .connection import JobRedis, dumps, loads, patiently, server_time, text
from .progress import current_job
from .record import flat, job_key, queue_key, records
from .routing import known_queue, route

if TYPE_CHECKING:
    from .job import Job

R = TypeVar("R")
OPTIONS = ("_job_id", "_queue_name", "_defer_by", "_defer_until", "_expires", "_job_try")  # arq's


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """A job with its arguments, to be submitted, chained or grouped."""

    job: "Job[Any, R]"
    arguments: Mapping[str, Any]
    compensation: "Call[Any] | None" = None

    def undo(self, call: "Call[Any]") -> "Call[R]":
        """In a chain: what takes this step back when it, once begun, or a later one fails or is cancelled."""
        return replace(self, compensation=call)

    async def submit(
        self, *, key: str | None = None, delay: float = 0, queue: str | None = None, priority: int | None = None
    ) -> Submission:
        """Queue it; `delay` in seconds, `priority` 0–9 (9 is the most urgent). Raises as `Job.send`."""
        return await self.job.send(self.arguments, key=key, delay=delay, queue=queue, priority=priority)


@dataclass(frozen=True, slots=True)
class Spec:
    """A job ready to be written down."""

    id: str
    name: str
    key: str
    fingerprint: str
    message: bytes
    fields: dict[str, Any] = field(default_factory=dict)

    def document(self, **more: Any) -> dict[str, Any]:
        """For a step that takes several."""
        fields = {**self.fields, **more}
        return {"id": self.id, "message": self.message.decode(), "fields": flat(fields)}


def prepare(
    job: "Job[Any, Any]",
    arguments: Mapping[str, Any],
    *,
    job_id: str | None = None,
    key: str | None = None,
    queue: str | None = None,
    priority: int | None = None,
    given: str | None = None,
    **fields: Any,
) -> Spec:
    """Check and route a job. `given` says where its first argument comes from when it starts (workflows.py), `fields`
    are more of its record. Raises pydantic.ValidationError if the arguments do not fit, UnknownQueue.
    """
    parent = current_job()
    job_id = checked_id(job_id) if job_id else str(uuid.uuid4())
    if given is None:
        values = job.validate(arguments)
        key = checked_key(key or (job.key_of and job.key_of(**values)))
        payload = values[job.payload_parameter] if job.payload_parameter else values
        rule = None if queue else route(job.name, lambda: payload)
    else:  # not all of them are known yet, so none decides
        values, key, rule = dict(arguments), key or "", None
    content = jsonable(values)
    fingerprint = hashlib.sha256(to_json(content)).hexdigest()[:32] if key else ""
    if queue is None:
        queue = rule.queue if rule else job.queue or DEFAULT_QUEUE
    if priority is None:
        priority = rule.priority if rule and rule.priority is not None else job.priority
    record = {
        "name": job.name,
        "queue": known_queue(queue),
        "priority": checked_priority(priority),
        "key": key or None,
        "fingerprint": fingerprint or None,
        "parent": parent.id if parent else None,
        "root": parent.root if parent else job_id,
        "singleton": job.singleton,
        "input": given,
        **telemetry.carried(),
        **fields,
    }
    message = {"t": None, "f": job.name, "a": [], "k": content, "et": int(time.time() * 1000)}
    return Spec(job_id, job.name, key, fingerprint, dumps(message), record)


async def send(spec: Spec, *, delay: float = 0, restart: bool = False, claim: bool = True) -> tuple[Submission, bool]:
    """Queue it; also answers whether it was not there before, also under this id. `restart`: a job that has ended gives
    up its key. A job waits for Redis, any other caller hears of it. Raises IdempotencyConflict.
    """
    key = spec.key if claim else ""
    delay = checked_delay(delay)
    with telemetry.sending("arq", spec.name, spec.fields["queue"], spec.id, delayed=delay > 0) as carried:
        what = (spec.id, spec.name, key, spec.fingerprint, spec.message, {**spec.fields, **carried})
        step = partial(records().submit, *what, delay=delay, take_over=restart)
        holder, held, new = await (patiently(step) if current_job() else step())
    if holder != spec.id and held != spec.fingerprint:
        raise IdempotencyConflict(f"key {key!r} was used for job {holder} with another payload; use a new key")
    return Submission(id=holder, created=holder == spec.id), new


async def enqueue(
    client: JobRedis,
    native: Callable[..., Awaitable[ArqJob | None]],
    name: str,
    args: tuple[Any, ...],
    options: Mapping[str, Any],
) -> ArqJob | None:
    """`enqueue_job` for a job of ours; `native` is arq's own, for all others."""
    from .job import jobs  # here, since jobs need submissions

    ours = {option: value for option, value in options.items() if option.startswith("_")}
    _refuse(ours)
    job = jobs().get(name)
    if job is None:
        return await native(name, *args, **options)
    queue, expires = ours.get("_queue_name"), ours.get("_expires")
    spec = prepare(
        job,
        job.bind(args, {option: value for option, value in options.items() if option not in ours}),
        job_id=ours.get("_job_id"),
        queue=queue.removeprefix("arq:queue:") if queue else None,
        expires_in=_seconds(expires) if expires is not None else None,
    )
    delay = _seconds(ours.get("_defer_by") or 0)
    if until := ours.get("_defer_until"):
        aware = until if until.tzinfo else until.astimezone()  # arq: a naive one is local time
        delay = aware.timestamp() - await server_time()
    submission, new = await send(spec, delay=max(0.0, delay))
    if submission.id != spec.id or (ours.get("_job_id") and not new):
        return None
    return _handle(client, spec.id, spec.fields["queue"], spec.fields["priority"])


async def find(client: JobRedis, job_id: str) -> ArqJob:
    """arq's handle of a job, wherever it was sent from."""
    queue, priority = await client.execute_command("HMGET", job_key(job_id), "queue", "priority")
    return _handle(client, job_id, text(queue) if queue else DEFAULT_QUEUE, int(priority or 5))


def _handle(client: JobRedis, job_id: str, queue: str, priority: int) -> ArqJob:
    return ArqJob(job_id, client, _queue_name=queue_key(queue, priority), _deserializer=loads)


def _refuse(options: Mapping[str, Any]) -> None:
    """What would have no effect, or would make no sense."""
    if unknown := options.keys() - OPTIONS:
        raise TypeError(f"enqueue_job() has no option {', '.join(sorted(unknown))}; there are {', '.join(OPTIONS)}")
    if options.get("_job_try") is not None:
        raise TypeError("enqueue_job(_job_try=…): attempts are counted in the record of the job, leave it out")
    if options.get("_defer_by") and options.get("_defer_until"):
        raise TypeError("enqueue_job() takes _defer_by or _defer_until, not both")
    if (expires := options.get("_expires")) is not None and not _seconds(expires) > 0:
        raise ValueError(f"enqueue_job(_expires={expires!r}): it must be above 0 seconds")


def _seconds(duration: float | timedelta) -> float:
    return duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
