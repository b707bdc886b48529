"""How much work waits in each queue, and who is there to do it.

Temporal counts the tasks of a queue, not its jobs: one that runs, one that is not due yet and one that waits for a
person are no tasks. Jobs are counted by visibility; live workers are those that the server has just heard of, while its
list of pollers remembers a dead one for minutes.
"""

import asyncio
import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime

from temporalio.api.enums.v1 import PendingActivityState, TaskQueueType
from temporalio.api.enums.v1 import WorkerStatus as State
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    DescribeTaskQueueRequest,
    DescribeTaskQueueResponse,
    ListWorkersRequest,
)
from temporalio.client import WorkflowExecutionDescription, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from ..contract import JobStatus, QueueStatus, UnknownJob, WorkerStatus
from ..queues import QUEUES
from ..runtime.connection import client
from ..runtime.job import jobs
from ..runtime.routing import NAMES
from ..runtime.submission import JobId
from .registration import register
from .status import describe, status_of

ALIVE = 10.0  # seconds since a worker's last sign of life; it gives one each second
ACTIVITIES, WORKFLOWS = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY, TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
NOT_ASKED = {RPCStatusCode.UNIMPLEMENTED, RPCStatusCode.PERMISSION_DENIED}  # by older or restricted servers
LOOKED_AT = 1_000  # open workflows at most that are described to find those that run
AT_ONCE = 50
RUNNING = "ExecutionStatus = 'Running'"
OPEN = f"{RUNNING} AND JobState IS NULL"
PAUSED = f"{RUNNING} AND JobState = 'paused'"
DEAD = f"(({RUNNING} AND JobState = 'parked')" + (
    " OR (ExecutionStatus IN ('Failed', 'TimedOut') AND (JobState IS NULL OR JobState IN ('waiting', 'paused'))))"
)


@dataclass
class Slots:
    """What one worker process says of itself."""

    free: int = 0
    used: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # by queue
    seen_at: float = 0.0


@dataclass(frozen=True)
class Fleet:
    """The live workers, and how many jobs each queue has in their hands."""

    workers: list[WorkerStatus]
    in_flight: dict[str, int]


def quoted(value: str) -> str:
    """A value in a query."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def moment(at: float) -> str:
    """A time in a query."""
    return quoted(datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z"))


ON_QUEUES = f"TaskQueue IN ({', '.join(map(quoted, NAMES))})"


async def count(query: str) -> int:
    """How many workflows there are; makes our search attributes known to a server that is new."""
    server = await client()
    try:
        return (await server.count_workflows(query)).count
    except RPCError as error:
        if error.status != RPCStatusCode.INVALID_ARGUMENT:
            raise
    await register(server)
    return (await server.count_workflows(query)).count


async def fleet() -> Fleet:
    """Who lives. A worker that is being stopped takes no more jobs, so it does not count."""
    server, found = await client(), defaultdict[str, Slots](Slots)
    request = ListWorkersRequest(namespace=server.namespace, page_size=1_000)
    try:
        answer = await server.workflow_service.list_workers(request)
        if not answer.workers_info:  # nobody lives, or this server is told not to hear signs of life
            asked = DescribeNamespaceRequest(namespace=server.namespace)
            namespace = (await server.workflow_service.describe_namespace(asked)).namespace_info
            if not namespace.capabilities.worker_heartbeats:
                return await _pollers()
    except RPCError as error:
        if error.status in NOT_ASKED:
            return await _pollers()
        raise
    now = time.time()
    for info in answer.workers_info:
        said = info.worker_heartbeat
        queue, seen = _home(said.task_queue), said.heartbeat_time.ToMicroseconds() / 1e6
        if queue is None or said.status != State.WORKER_STATUS_RUNNING or now - seen > ALIVE:
            continue
        slots = found[said.worker_identity]
        slots.seen_at = max(slots.seen_at, seen)
        slots.used[queue] += said.activity_task_slots_info.current_used_slots
        slots.free += said.activity_task_slots_info.current_available_slots
    workers = [
        WorkerStatus(
            name=name,
            queues=[queue for queue in NAMES if queue in slots.used],
            concurrency=slots.free + sum(slots.used.values()),
            running=sum(slots.used.values()),
            seen_at=slots.seen_at,
        )
        for name, slots in sorted(found.items())
    ]
    in_flight = {queue: sum(slots.used[queue] for slots in found.values()) for queue in NAMES}
    return Fleet(workers, in_flight)


async def _pollers() -> Fleet:
    """The same from a server that does not list workers: who asks for work, not what it does."""
    found = defaultdict[str, WorkerStatus](
        lambda: WorkerStatus(name="", queues=[], concurrency=1, running=0, seen_at=0)
    )
    answers = await asyncio.gather(*(_tasks(queue, ACTIVITIES) for queue in NAMES))
    for queue, answer in zip(NAMES, answers, strict=True):
        for poller in answer.pollers:
            seen = poller.last_access_time.ToMicroseconds() / 1e6
            if time.time() - seen < 6 * ALIVE:  # one request for work lasts up to a minute
                worker = found[poller.identity]
                worker.name, worker.seen_at = poller.identity, max(worker.seen_at, seen)
                worker.queues.append(queue)
    return Fleet([found[name] for name in sorted(found)], {})


def _home(task_queue: str) -> str | None:
    """The queue that a task queue belongs to: a job with a rate limit has one of its own, `<queue>.<job>`."""
    if task_queue in NAMES:
        return task_queue
    queue, _, job = task_queue.partition(".")
    return queue if queue in NAMES and job in jobs() else None


async def queues(live: Fleet | None = None) -> list[QueueStatus]:
    """Every queue with its backlog."""
    live = live or await fleet()
    return list(await asyncio.gather(*(_queue(queue.name, live) for queue in QUEUES)))


async def _queue(name: str, live: Fleet) -> QueueStatus:
    here, now = f"TaskQueue = {quoted(name)}", moment(time.time())
    due, later, paused, dead = await asyncio.gather(
        count(f"{here} AND {OPEN} AND ExecutionTime <= {now}"),
        count(f"{here} AND {OPEN} AND ExecutionTime > {now}"),
        count(f"{here} AND {PAUSED}"),
        count(f"{here} AND {DEAD}"),
    )
    delayed = later + paused
    depth = due + delayed
    in_flight = min(live.in_flight.get(name, 0), depth - delayed)
    waiting = depth - delayed - in_flight
    return QueueStatus(
        name=name,
        depth=depth,
        waiting=waiting,
        delayed=delayed,
        in_flight=in_flight,
        oldest_age=await _oldest(name) if waiting else 0.0,
        workers=sum(name in worker.queues for worker in live.workers),
        dead_letters=dead,
    )


async def _oldest(queue: str) -> float:
    """Seconds that the oldest task has waited for a worker."""
    own = [job.task_queue(queue) for job in jobs().values() if job.per_second]
    asked = [(queue, WORKFLOWS), *((name, ACTIVITIES) for name in {queue, *own})]
    return max(await asyncio.gather(*(_age(*each) for each in asked)))


async def _age(task_queue: str, kind: TaskQueueType.ValueType) -> float:
    """The server keeps its answer for 5 s; when it gives the same once more, the task is older by the time between."""
    age = (await _tasks(task_queue, kind)).stats.approximate_backlog_age.ToMicroseconds() / 1e6
    told, at = _told.get((task_queue, kind), (0.0, 0.0))
    if age == told:
        return age and age + time.monotonic() - at
    _told[task_queue, kind] = age, time.monotonic()
    return age


_told: dict[tuple[str, int], tuple[float, float]] = {}


async def _tasks(task_queue: str, kind: TaskQueueType.ValueType) -> DescribeTaskQueueResponse:
    server = await client()
    request = DescribeTaskQueueRequest(
        namespace=server.namespace, task_queue=TaskQueue(name=task_queue), task_queue_type=kind, report_stats=True
    )
    return await server.workflow_service.describe_task_queue(request)


async def running(limit: int) -> list[JobStatus]:
    """Those that run, the longest first, found among the oldest open ones."""
    busy = sum((await fleet()).in_flight.values())
    if not busy:
        return []
    due, server = f"{OPEN} AND {ON_QUEUES} AND ExecutionTime <= {moment(time.time())}", await client()
    older, age = due, 1.0
    while await count(older) > LOOKED_AT and age < 1e8:
        older, age = f"{due} AND StartTime < {moment(time.time() - age)}", 2 * age
    ids = {found.id: None async for found in server.list_workflows(older, limit=LOOKED_AT)}
    if older != due:
        ids |= {found.id: None async for found in server.list_workflows(due, limit=AT_ONCE)}
    oldest, found = list(reversed(ids)), list[JobStatus]()
    for start in range(0, len(oldest), AT_ONCE):
        each = await asyncio.gather(*(_described(name) for name in oldest[start : start + AT_ONCE]))
        statuses = [await status_of(one) for one in each if one and one.status == WorkflowExecutionStatus.RUNNING]
        found += [status for status in statuses if status.state == "running"]
        busy -= sum(_taken(one) for one in each if one)
        if busy <= 0 or len(found) >= limit:
            break
    return sorted(found, key=lambda status: status.started_at or 0)[:limit]


def _taken(found: WorkflowExecutionDescription) -> int:
    """How many of its activities workers hold."""
    held = PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
    return sum(step.state == held for step in found.raw_description.pending_activities)


async def _described(workflow_id: str) -> WorkflowExecutionDescription | None:
    try:
        return await describe(JobId(workflow_id))
    except UnknownJob:
        return None
