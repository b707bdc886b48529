"""The contract's engine for ARQ: what the API and the command line ask is answered here, on their own event loop."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import cache, wraps
from types import CoroutineType
from typing import Any, ParamSpec, TypeVar

from arq.constants import default_queue_name
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

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
from ..queues import DEFAULT_QUEUE
from ..runtime import connection
from ..runtime.connection import UNAVAILABLE, dumps, redis, texts
from ..runtime.job import Job, jobs
from ..runtime.record import METRICS, job_key, lease_key, records, result_key
from ..runtime.results import large_results, reference
from ..settings import settings
from . import backlog, dead_letters, schedules

P = ParamSpec("P")
T = TypeVar("T")


def answering(method: Callable[P, Awaitable[T]]) -> "Callable[P, CoroutineType[Any, Any, T]]":
    """Say in the contract's words when the broker is away."""

    @wraps(method)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except UNAVAILABLE as error:
            raise BrokerUnavailable(f"the broker does not answer ({error}); try again later") from error
        except LargeResultsUnavailable as error:
            raise BrokerUnavailable(str(error)) from error

    return wrapper


class ArqEngine:
    """Implements `engine.Engine`, where each method is documented."""

    def __init__(self) -> None:
        settings().require_redis_url()
        self.jobs = dict(sorted(jobs().items()))

    def job_types(self) -> list[JobType]:
        return [
            JobType(
                name=name,
                queue=job.queue or DEFAULT_QUEUE,
                description=job.description,
                payload_schema=_payload_schema(job),
            )
            for name, job in self.jobs.items()
        ]

    @answering
    async def submit(
        self,
        name: str,
        payload: Any,
        *,
        key: str | None = None,
        delay: float = 0,
        queue: str | None = None,
        priority: int | None = None,
    ) -> Submission:
        job = self.jobs.get(name)
        if job is None:
            raise UnknownJob(f"there is no job {name!r}; there are {', '.join(self.jobs)}")
        arguments = {job.payload_parameter: payload} if job.payload_parameter else payload or {}
        if not isinstance(arguments, dict):
            raise InvalidPayload(f"{name} takes a JSON object with its arguments, not {type(payload).__name__}")
        try:
            return await job.send(arguments, key=key, delay=delay, queue=queue, priority=priority)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=False, include_input=False)
            raise InvalidPayload(f"the payload does not fit {name}", [dict(entry) for entry in errors]) from error
        except NotJsonError as error:
            raise InvalidPayload(f"the payload does not fit {name}: {error}") from error

    @answering
    async def status(self, job_id: str) -> JobStatus:
        return await self._status(job_id)

    async def _status(self, job_id: str) -> JobStatus:
        for status in await self._statuses([job_id]):
            return status
        raise UnknownJob(f"there is no job {job_id} (any more)")

    async def _statuses(self, job_ids: list[str]) -> list[JobStatus]:
        async with redis().pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hgetall(job_key(job_id))
                pipe.exists(lease_key(job_id))
                pipe.exists(f"dead:{job_id}")
            answers = await pipe.execute()
        each = zip(job_ids, map(texts, answers[0::3]), answers[1::3], answers[2::3], strict=True)
        return [_job_status(*found) for found in each if "state" in found[1]]

    @answering
    async def result(self, job_id: str) -> Result:
        status = await self._status(job_id)
        if status.state in ("failed", "cancelled"):
            raise JobFailed(f"job {job_id} {status.state}: {status.error or 'no result'}")
        if status.state != "succeeded":
            raise NotFinished(f"job {job_id} is {status.state}")
        gone = ResultExpired(f"the result of job {job_id} was kept for {settings().result_ttl} s")
        stored: bytes | None = await redis().get(result_key(job_id))
        if stored is None:
            raise gone
        value = from_json(stored)["r"]
        if (source := reference(value)) is None:
            document = dumps(value)
            return Result(size=len(document), chunks=_chunks(iter([document])))
        size = await asyncio.to_thread(large_results().size, source)
        if size is None:
            raise gone
        url = await asyncio.to_thread(large_results().url, source, 300)
        return Result(size=size, url=url, chunks=_chunks(large_results().chunks(source)))

    @answering
    async def cancel(self, job_id: str) -> JobStatus:
        await records().step("cancel", job_id)
        return await self._status(job_id)

    @answering
    async def queues(self) -> list[QueueStatus]:
        return await backlog.queues()

    @answering
    async def running(self, limit: int = 100) -> list[JobStatus]:
        found = [status for status in await self._statuses(await backlog.running()) if status.state == "running"]
        return sorted(found, key=lambda status: status.started_at or 0)[:limit]

    @answering
    async def dead_letters(
        self, *, job: str | None = None, queue: str | None = None, reason: str | None = None, limit: int = 100
    ) -> list[DeadLetter]:
        return await dead_letters.listed(job=job, queue=queue, reason=reason, limit=limit)

    @answering
    async def dead_letter(self, job_id: str) -> DeadLetter:
        return await dead_letters.shown(job_id)

    @answering
    async def replay(self, job_id: str) -> Submission:
        return await dead_letters.replay(job_id, str(uuid.uuid4()))

    @answering
    async def discard(self, job_id: str) -> None:
        await dead_letters.discard(job_id)

    pause = staticmethod(answering(schedules.pause))
    resume = staticmethod(answering(schedules.resume))
    fire = staticmethod(answering(schedules.fire))

    @answering
    async def schedules(self) -> list[ScheduleStatus]:
        return await schedules.statuses()

    async def health(self) -> Health:
        try:
            return await self._health()
        except BrokerUnavailable as error:
            return Health(ok=False, broker=False, reasons=[str(error)])

    @answering
    async def _health(self) -> Health:
        await redis().set("health", "asked", ex=60)  # a server that refuses writes runs no jobs
        workers = await backlog.workers()
        health = judge(workers, await backlog.queues(workers), await schedules.statuses())
        if unread := await redis().zcard(default_queue_name):
            why = f"{unread} jobs wait in {default_queue_name}, which no worker reads: `doctor` says what to do"
            return health.model_copy(update={"ok": False, "reasons": [*health.reasons, why]})
        return health

    @answering
    async def ping(self) -> None:
        await redis().ping()

    @answering
    async def counts(self) -> dict[str, float]:
        stored: dict[bytes, bytes] = await redis().hgetall(METRICS)
        return {field: float(value) for field, value in texts(stored).items()}

    async def close(self) -> None:
        await connection.close()


def _job_status(job_id: str, record: dict[str, str], leased: int, dead: int) -> JobStatus:
    fields = {
        **record,
        "id": job_id,
        "attempts": record.get("attempts", 0),
        "progress": Progress.model_validate({**record, "updated_at": record.get("progress_at")}),
        "stalled": record["state"] == "running" and not leased,
        "dead_letter": dead,
        "idempotency_key": record.get("key"),
    }
    return JobStatus.model_validate(fields)


@cache  # it takes a millisecond, and /metrics wants the types of all jobs
def _payload_schema(job: Job[Any, Any]) -> dict[str, Any]:
    """Of the only parameter if that is a model, else of all of them."""
    parameter = job.payload_parameter
    model: Any = job.arguments.model_fields[parameter].annotation if parameter else job.arguments
    return TypeAdapter(model).json_schema()


async def _chunks(source: Iterator[bytes]) -> AsyncIterator[bytes]:
    done = b""
    while chunk := await asyncio.to_thread(lambda: next(source, done)):
        yield chunk


@cache
def engine() -> Engine:
    """This process's engine; raises NotConfigured if REDIS_URL is not set."""
    return ArqEngine()
