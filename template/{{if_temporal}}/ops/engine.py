"""The contract's engine for Temporal: what the API and the command line ask is answered here."""

import asyncio
import atexit
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache, wraps
from types import CoroutineType
from typing import Any, ParamSpec, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError
from temporalio.client import WorkflowExecutionDescription, WorkflowExecutionStatus
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from .. import calls
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
from ..payloads import PayloadError, PayloadGone, PayloadStoreUnavailable, is_json
from ..queues import DEFAULT_QUEUE
from ..runtime import connection
from ..runtime.connection import UNAVAILABLE, client, unavailable
from ..runtime.errors import shorten
from ..runtime.job import Job, jobs
from ..runtime.submission import JobId
from ..settings import settings
from . import backlog, dead_letters, schedules
from .counts import Counters
from .status import began, describe, status_of

LISTED_WITHIN = 0.5  # seconds that a caller waits at most until its own submission is counted
P = ParamSpec("P")
T = TypeVar("T")


def answering(method: Callable[P, Awaitable[T]]) -> "Callable[P, CoroutineType[Any, Any, T]]":
    """Say in the contract's words when the server is away."""

    @wraps(method)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except UNAVAILABLE as error:
            if isinstance(error, PayloadError) and not isinstance(error, PayloadStoreUnavailable):
                raise BrokerUnavailable(f"this process cannot read it: {error}") from error
            if not unavailable(error):
                raise
            why = str(error).partition(": ")[0]  # what follows is the transport's own story
            raise BrokerUnavailable(f"the broker does not answer ({why}); try again later") from error

    return wrapper


class TemporalEngine:
    """Implements `engine.Engine`, where each method is documented."""

    def __init__(self) -> None:
        connection.configuration()
        calls.retries = calls.PROMPT  # what a caller was told has failed comes no later
        atexit.register(time.sleep, 0.05)  # or a process that asked just now may crash: temporalio/sdk-python#300
        self.jobs = dict(sorted(jobs().items()))
        self.counters = Counters()
        self._submitted = ("", 0.0)  # the last one, and when

    def job_types(self) -> list[JobType]:
        return [_job_type(job) for job in self.jobs.values()]

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
        if (job := self.jobs.get(name)) is None:
            raise UnknownJob(f"there is no job {name!r}; there are {', '.join(self.jobs)}")
        arguments = {job.payload_parameter: payload} if job.payload_parameter else payload or {}
        if not isinstance(arguments, dict):
            raise InvalidPayload(f"{name} takes a JSON object with its arguments, not {type(payload).__name__}")
        try:
            sent = await job.send(arguments, key=key, delay=delay, queue=queue, priority=priority)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=False, include_input=False)
            raise InvalidPayload(f"the payload does not fit {name}", [dict(entry) for entry in errors]) from error
        except (ApplicationError, PydanticSerializationError, UnicodeEncodeError, NotJsonError) as error:
            raise InvalidPayload(f"the payload does not fit {name}: {shorten(str(error))}") from error
        self._submitted = (JobId.parse(sent.id).workflow_id, time.monotonic())
        return sent

    @answering
    async def status(self, job_id: str) -> JobStatus:
        _, found, status = await _look(job_id)
        job = self.jobs.get(status.name)
        if job and job.workflow and status.state in ("running", "scheduled"):
            status.progress = await _told(found) or status.progress
        return status

    @answering
    async def result(self, job_id: str) -> Result:
        _, found, status = await _look(job_id)
        if status.state in ("failed", "cancelled"):
            raise JobFailed(f"job {job_id} {status.state}: {status.error or 'no result'}")
        if status.state != "succeeded":
            raise NotFinished(f"job {job_id} is {status.state}")
        gone = ResultExpired(f"the result of job {job_id} was kept for {settings().result_ttl} s")
        if found.close_time and time.time() - found.close_time.timestamp() > settings().result_ttl:
            raise gone
        handle = (await client()).get_workflow_handle(found.id, run_id=found.run_id, result_type=RawValue)
        try:
            value: RawValue = await handle.result(follow_runs=False)
        except PayloadGone:
            raise gone from None
        if not is_json(value.payload):  # of a workflow that is no job
            raise JobFailed(f"job {job_id} returned what is not JSON: {value.payload.metadata['encoding'].decode()}")
        document = value.payload.data or b"null"
        return Result(size=len(document), chunks=_chunks(document))

    @answering
    async def cancel(self, job_id: str) -> JobStatus:
        """One that no worker has begun ends at once, whether a worker lives or not; another is asked to end."""
        wanted, found, status = await _look(job_id)
        if found.status != WorkflowExecutionStatus.RUNNING or status.replayed_as:
            return status
        handle = (await client()).get_workflow_handle(found.id, run_id=found.run_id)
        try:
            await (handle.cancel() if began(found) else handle.terminate(reason="cancelled before it began"))
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:  # it has just ended
                raise
        return await status_of(await describe(wanted), wanted)

    @answering
    async def queues(self) -> list[QueueStatus]:
        await self._listed()
        return await backlog.queues()

    @answering
    async def running(self, limit: int = 100) -> list[JobStatus]:
        return await backlog.running(limit)

    @answering
    async def dead_letters(
        self, *, job: str | None = None, queue: str | None = None, reason: str | None = None, limit: int = 100
    ) -> list[DeadLetter]:
        if not all(text.isprintable() for text in (job, queue) if text):
            return []  # and the server's query language has no way to write it
        return await dead_letters.listed(job=job, queue=queue, reason=reason, limit=limit)

    @answering
    async def dead_letter(self, job_id: str) -> DeadLetter:
        return await dead_letters.shown(job_id)

    @answering
    async def replay(self, job_id: str) -> Submission:
        return await dead_letters.replay(job_id)

    @answering
    async def discard(self, job_id: str) -> None:
        await dead_letters.discard(job_id)

    pause = staticmethod(answering(schedules.pause))
    resume = staticmethod(answering(schedules.resume))

    @answering
    async def fire(self, name: str) -> Submission:
        schedule = schedules.known(name)
        return await schedule.job.send(schedule.payload, key=f"{name}@{time.time():.3f} by hand")

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
        await self._listed()
        live = await backlog.fleet()
        return judge(live.workers, await backlog.queues(live), await schedules.statuses())

    @answering
    async def ping(self) -> None:
        await (await client()).service_client.check_health(timeout=connection.NO_ANSWER)

    @answering
    async def counts(self) -> dict[str, float]:
        await self._listed()
        return await self.counters.look()

    async def close(self) -> None:
        """The client lives as long as the process; only its calls have to end with the event loop."""
        await calls.settled()

    async def _listed(self) -> None:
        """Wait, briefly, for the last submission: the server lists it some milliseconds later."""
        (name, at), count = self._submitted, backlog.count
        while time.monotonic() - at < LISTED_WITHIN and not await count(f"WorkflowId = {backlog.quoted(name)}"):
            await asyncio.sleep(0.01)


async def _look(job_id: str) -> tuple[JobId, WorkflowExecutionDescription, JobStatus]:
    found = await describe(wanted := JobId.parse(job_id))
    return wanted, found, await status_of(found, wanted)


async def _told(found: WorkflowExecutionDescription) -> Progress | None:
    """What a workflow says of itself; it takes a worker to hear it."""
    handle = (await client()).get_workflow_handle(found.id, run_id=found.run_id)
    patience = connection.NO_ANSWER / 2
    try:
        async with asyncio.timeout(patience.total_seconds()):  # an RPC's own timeout holds for each of its tries
            return Progress.model_validate(await handle.query("progress", rpc_timeout=patience))
    except Exception:  # no worker, or not a workflow of ours
        return None


@cache  # it takes a millisecond, and /metrics wants the types of all jobs
def _job_type(job: Job[Any, Any]) -> JobType:
    """With the schema of its only parameter if that is a model, else of all of them."""
    schema = TypeAdapter[Any](job.types()[0] if job.payload_parameter else job.arguments).json_schema()
    return JobType(name=job.name, queue=job.queue or DEFAULT_QUEUE, description=job.description, payload_schema=schema)


async def _chunks(document: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(document), 1 << 20):
        yield document[start : start + (1 << 20)]


@cache
def engine() -> Engine:
    """This process's engine; raises NotConfigured if there is no TEMPORAL_ADDRESS."""
    return TemporalEngine()
