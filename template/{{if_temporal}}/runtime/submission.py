"""Start a job's workflow under an id that says what it is: the same key twice is one workflow, by the server's rule.

By default Temporal runs a workflow of the same id a second time once the first has ended: a customer is charged twice.
"""

import hashlib
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic_core import to_json
from temporalio.client import WorkflowExecutionDescription
from temporalio.common import Priority, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from .. import telemetry
from ..contract import BrokerUnavailable, IdempotencyConflict, Submission
from ..documents import jsonable
from ..payloads import PayloadError
from ..queues import DEFAULT_QUEUE
from ..settings import settings
from .bounds import checked_delay, checked_key, checked_priority
from .connection import client
from .progress import current_job
from .routing import known_queue, route

if TYPE_CHECKING:
    from .job import Job

R = TypeVar("R")
RUN_ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
JOB_ID = re.compile(rf"(?P<workflow>.+?)(?::(?P<run>{RUN_ID}))?(?:~(?P<generation>[1-9]\d*))?")


@dataclass(frozen=True)
class JobId:
    """`workflow_id`; with `:run_id` of its first run where a key may be used again, and `~2` after the first replay."""

    workflow_id: str
    run_id: str | None = None
    generation: int = 1

    @classmethod
    def parse(cls, text: str) -> "JobId":
        found = JOB_ID.fullmatch(text)
        return cls(found["workflow"], found["run"], int(found["generation"] or 1)) if found else cls(text)

    def __str__(self) -> str:
        run = f":{self.run_id}" if self.run_id else ""
        return f"{self.workflow_id}{run}{f'~{self.generation}' if self.generation > 1 else ''}"


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """A job with its arguments, to be submitted with options."""

    job: "Job[Any, R]"
    arguments: Mapping[str, Any]

    async def submit(
        self, *, key: str | None = None, delay: float = 0, queue: str | None = None, priority: int | None = None
    ) -> Submission:
        """Queue it; `delay` in seconds, `priority` 0–9 (9 is the most urgent). Raises as `Job.send`."""
        return await self.job.send(self.arguments, key=key, delay=delay, queue=queue, priority=priority)


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that the server must know to start a job."""

    workflow_id: str
    key: str | None
    queue: str
    priority: int
    args: list[Any]
    memo: dict[str, Any]

    @property
    def urgency(self) -> Priority:
        """9, the most urgent, is Temporal's 1; 0 its 5."""
        return Priority(priority_key=5 - self.priority // 2)


def workflow_id(name: str, key: str | None) -> str:
    """By the key, if there is one: readable where its characters allow it."""
    if not key:
        return f"{name}:{uuid.uuid4().hex}"
    readable = re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", key) and not re.fullmatch(RUN_ID, key)
    return f"{name}:{key if readable else hashlib.sha256(key.encode()).hexdigest()[:32]}"


def prepare(
    job: "Job[Any, Any]",
    arguments: Mapping[str, Any],
    *,
    key: str | None = None,
    queue: str | None = None,
    priority: int | None = None,
    delay: float = 0,
) -> Prepared:
    """Check and route a job. Raises pydantic.ValidationError if the arguments do not fit, UnknownQueue."""
    values = job.validate(arguments)
    content = jsonable(values)
    key = checked_key(key or (job.key_of and job.key_of(**values))) or None
    payload = values[job.payload_parameter] if job.payload_parameter else values
    rule = None if queue else route(job.name, lambda: payload)
    if queue is None:
        queue = rule.queue if rule else job.queue or DEFAULT_QUEUE
    if priority is None:
        priority = rule.priority if rule and rule.priority is not None else job.priority
    parent = current_job()
    memo = {
        "v": 1,
        "key": key,
        "fingerprint": hashlib.sha256(to_json(content)).hexdigest()[:32] if key else None,
        "priority": checked_priority(priority),
        "delay": checked_delay(delay) or None,
        "singleton": job.singleton,
        "parent": parent.id if parent else None,
        "root": parent.root if parent else None,
    }
    told = {name: value for name, value in memo.items() if value is not None}
    return Prepared(workflow_id(job.name, key), key, known_queue(queue), priority, list(values.values()), told)


async def send(job: "Job[Any, Any]", prepared: Prepared) -> Submission:
    """Start it, or find the one that has its key. Raises IdempotencyConflict."""
    reuse = WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY
    while True:
        try:
            return Submission(id=str(await _start(job, prepared, reuse)), created=True)
        except WorkflowAlreadyStartedError:
            found = await (await client()).get_workflow_handle(prepared.workflow_id).describe()
        memo = await _memo(found)
        if found.close_time and time.time() - found.close_time.timestamp() > settings().idempotency_ttl:
            reuse = WorkflowIDReusePolicy.ALLOW_DUPLICATE
            continue
        if memo.get("job", {}).get("fingerprint") != prepared.memo.get("fingerprint"):
            raise IdempotencyConflict(f"the idempotency key {prepared.key!r} was used with another payload")
        first = found.raw_description.workflow_execution_info.first_run_id
        return Submission(id=str(JobId(found.id, first, len(memo.get("before", ())) + 1)), created=False)


async def _memo(found: WorkflowExecutionDescription) -> Mapping[str, Any]:
    try:
        return await found.memo()
    except PayloadError as error:  # whether it had this payload cannot be known
        raise BrokerUnavailable(f"the job that has this key cannot be read here: {error}") from error


async def _start(job: "Job[Any, Any]", prepared: Prepared, reuse: WorkflowIDReusePolicy) -> JobId:
    server, delay = await client(), prepared.memo.get("delay", 0)
    named = prepared.workflow_id
    with telemetry.sending("temporal", job.name, prepared.queue, named, delayed=delay > 0) as carried:
        handle = await server.start_workflow(
            job.name,
            args=prepared.args,
            id=named,
            task_queue=prepared.queue,
            id_reuse_policy=reuse,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            start_delay=timedelta(seconds=delay) if delay else None,
            memo={"job": {**prepared.memo, **carried}},
            priority=prepared.urgency,
        )
    return JobId(named, handle.first_execution_run_id if prepared.key else None)
