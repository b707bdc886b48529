"""The contract's engine for Celery: what the API and the command line ask is answered here, off their event loop."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache, wraps
from types import CoroutineType
from typing import Any, ParamSpec, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from .. import broker
from ..celery import app
from ..contract import (
    BrokerUnavailable,
    DeadLetter,
    Health,
    InvalidPayload,
    JobFailed,
    JobStatus,
    JobType,
    NotFinished,
    Progress,
    QueueStatus,
    Result,
    ResultExpired,
    ScheduleStatus,
    Submission,
    UnknownJob,
)
from ..documents import NotJsonError
from ..engine import Engine
from ..health import judge
from ..large_results import LargeResultsUnavailable
from ..runtime import dead_letters
from ..runtime.bounds import checked_delay, is_ours
from ..runtime.connection import UNAVAILABLE, redis
from ..runtime.control import JobControl
from ..runtime.record import job_key, records, result_key
from ..runtime.results import large_results, reference, stored
from ..runtime.routing import known_queue
from ..runtime.task import JobTask
from ..settings import settings
from . import backlog, schedules, workers

P = ParamSpec("P")
T = TypeVar("T")


def in_thread(method: Callable[P, T]) -> "Callable[P, CoroutineType[Any, Any, T]]":
    """Celery and redis-py block: run in a thread, and say in the contract's words when the broker is away."""

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except UNAVAILABLE as error:
            raise BrokerUnavailable(f"the broker does not answer ({error}); try again later") from error
        except LargeResultsUnavailable as error:
            raise BrokerUnavailable(str(error)) from error

    @wraps(method)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(call, *args, **kwargs)

    return wrapper


class CeleryEngine:
    """Implements `engine.Engine`, where each method is documented."""

    def __init__(self) -> None:
        broker.require()
        app.loader.import_default_modules()
        schedules.prepare()

    def _tasks(self) -> dict[str, JobTask[Any, Any]]:
        return {name: task for name, task in sorted(app.tasks.items()) if isinstance(task, JobTask) and task.arguments}

    def job_types(self) -> list[JobType]:
        return [
            JobType(
                name=name,
                queue=task.job_queue or app.conf.task_default_queue,
                description=(task.__doc__ or "").strip(),
                payload_schema=self._payload_schema(task),
            )
            for name, task in self._tasks().items()
        ]

    @staticmethod
    @cache  # it takes a millisecond, and /metrics wants the types of all jobs
    def _payload_schema(task: JobTask[Any, Any]) -> dict[str, Any]:
        parameter = task.payload_parameter
        model = task.arguments.model_fields[parameter].annotation if task.arguments and parameter else task.arguments
        return TypeAdapter(cast("Any", model)).json_schema()

    @in_thread
    def submit(
        self,
        name: str,
        payload: Any,
        *,
        key: str | None = None,
        delay: float = 0,
        queue: str | None = None,
        priority: int | None = None,
    ) -> Submission:
        task = self._tasks().get(name)
        if task is None:
            raise UnknownJob(f"there is no job {name!r}; there are {', '.join(self._tasks())}")
        kwargs = {task.payload_parameter: payload} if task.payload_parameter else payload or {}
        if not isinstance(kwargs, dict):
            raise InvalidPayload(f"{name} takes a JSON object with its arguments, not {type(payload).__name__}")
        options: dict[str, Any] = {"queue": known_queue(queue)} if queue else {}
        checked_delay(delay)
        if priority is not None:
            options["priority"] = priority
        try:
            result, created = task.send((), kwargs, idempotency_key=key, countdown=delay or None, **options)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=False, include_input=False)
            raise InvalidPayload(f"the payload does not fit {name}", [dict(entry) for entry in errors]) from error
        except (TypeError, NotJsonError) as error:
            raise InvalidPayload(f"the payload does not fit {name}: {error}") from error
        return Submission(id=str(result.id), created=created)

    @in_thread
    def status(self, job_id: str) -> JobStatus:
        return self._status(job_id)

    def _status(self, job_id: str) -> JobStatus:
        for status in self._statuses([job_id]):
            return status
        raise UnknownJob(f"there is no job {job_id} (any more)")

    def _statuses(self, job_ids: list[str]) -> list[JobStatus]:
        with redis().pipeline(transaction=False) as pipe:
            job_ids = [job_id for job_id in job_ids if not is_ours(job_id)]
            for job_id in job_ids:
                pipe.hgetall(job_key(job_id))
                pipe.exists(f"{job_key(job_id)}:lease")
                pipe.exists(f"dead:{job_id}")
            answers = pipe.execute()
        each = zip(job_ids, answers[0::3], answers[1::3], answers[2::3], strict=True)
        return [_job_status(*found) for found in each if "state" in found[1]]

    @in_thread
    def result(self, job_id: str) -> Result:
        status = self._status(job_id)
        if status.state in ("failed", "cancelled"):
            raise JobFailed(f"job {job_id} {status.state}: {status.error or 'no result'}")
        if status.state != "succeeded":
            raise NotFinished(f"job {job_id} is {status.state}")
        gone = ResultExpired(f"the result of job {job_id} was kept for {settings().result_ttl} s")
        if not redis().exists(result_key(job_id)):
            raise gone
        value = stored(job_id)
        if (source := reference(value)) is None:
            document = json.dumps(value).encode()
            return Result(size=len(document), chunks=_chunks(iter([document])))
        size = large_results().size(source)
        if size is None:
            raise gone
        return Result(size=size, url=large_results().url(source, 300), chunks=_chunks(large_results().chunks(source)))

    @in_thread
    def cancel(self, job_id: str) -> JobStatus:
        cast("JobControl", app.control).cancel(job_id)
        return self._status(job_id)

    @in_thread
    def queues(self) -> list[QueueStatus]:
        return backlog.queues()

    @in_thread
    def running(self, limit: int = 100) -> list[JobStatus]:
        found = [status for status in self._statuses(backlog.running()) if status.state == "running"]
        return sorted(found, key=lambda status: status.started_at or 0)[:limit]

    @in_thread
    def dead_letters(
        self, *, job: str | None = None, queue: str | None = None, reason: str | None = None, limit: int = 100
    ) -> list[DeadLetter]:
        return dead_letters.listed(job=job, queue=queue, reason=reason, limit=limit)

    @in_thread
    def dead_letter(self, job_id: str) -> DeadLetter:
        return dead_letters.shown(job_id)

    @in_thread
    def replay(self, job_id: str) -> Submission:
        return dead_letters.replay(job_id, str(uuid.uuid4()))

    @in_thread
    def discard(self, job_id: str) -> None:
        dead_letters.discard(job_id)

    pause = staticmethod(in_thread(schedules.pause))
    resume = staticmethod(in_thread(schedules.resume))
    fire = staticmethod(in_thread(schedules.fire))

    @in_thread
    def schedules(self) -> list[ScheduleStatus]:
        return schedules.statuses()

    async def health(self) -> Health:
        try:
            return await self._health()
        except BrokerUnavailable as error:
            return Health(ok=False, broker=False, reasons=[str(error)])

    @in_thread
    def _health(self) -> Health:
        broker.ping()
        return judge(alive := workers.alive(), backlog.queues(alive), schedules.statuses())

    @in_thread
    def ping(self) -> None:
        broker.ping()

    @in_thread
    def counts(self) -> dict[str, float]:
        return records().counts()

    @in_thread
    def close(self) -> None:
        redis().close()


def _job_status(job_id: str, record: dict[str, str], leased: int, dead: int) -> JobStatus:
    return JobStatus.model_validate({
        **record,
        "id": job_id,
        "attempts": record.get("attempts", 0),
        "progress": Progress.model_validate({**record, "updated_at": record.get("progress_at")}),
        "stalled": record["state"] == "running" and not leased,
        "dead_letter": dead,
        "idempotency_key": record.get("key"),
    })  # fmt: skip


async def _chunks(source: Iterator[bytes]) -> AsyncIterator[bytes]:
    done = b""
    while chunk := await asyncio.to_thread(lambda: next(source, done)):
        yield chunk


@cache
def engine() -> Engine:
    """This process's engine; raises NotConfigured if an address is missing."""
    return CeleryEngine()
