"""The worker process: one Temporal worker for each queue, signs of life, and an end that hands back what still runs.

By Temporal's defaults a worker that is stopped cancels what runs at once, spends a try on it, and takes a minute to
notice that a job was cancelled; the resource-based tuner starts twenty short activities a second and no more.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from importlib import import_module
from typing import Any

import structlog
from temporalio.client import Client
from temporalio.runtime import PrometheusConfig, Runtime
from temporalio.service import RPCError
from temporalio.worker import (
    PollerBehaviorAutoscaling,
    Replayer,
    Worker,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)
from temporalio.worker.workflow_sandbox import SandboxRestrictions

from .. import calls, health, logs
from .. import jobs as jobs_package
from ..contract import JobDeclarationError
from ..payloads import data_converter
from ..queues import QUEUES, Queue
from ..runtime import connection
from ..runtime.core import core
from ..runtime.errors import describe
from ..runtime.job import jobs
from ..runtime.routing import job_modules, known_queue
from ..runtime.waiting import INTERNAL_QUEUE, Lock
from ..settings import settings
from .brought import activities_of_jobs, workflows_of_jobs
from .contained import ContainedRunner
from .execution import JobInterceptor
from .held import busy, take_over
from .one_activity import JobInbound, OneActivity
from .registration import connect_patiently
from .supervisor import REPLACE, supervise
from .threads import Threads, too_many

log = structlog.get_logger(__name__)
SIGN_OF_LIFE = 1.0  # seconds between two that the server hears
FRESH = timedelta(milliseconds=200)  # how old a job's progress may be
FIRM = 5.0  # seconds after which a worker that fails had begun well
LAST_STEPS = 0.5  # seconds for the workflows of jobs that have just ended
STICKY = timedelta(seconds=5)  # how long a workflow's next step waits for the worker that has it in memory
PASSED_THROUGH = ("httpx", "pydantic", "pydantic_core", "pydantic_settings", "structlog")
"""Loaded once, not again for each workflow: that costs 2.5 times the CPU and 3 times the memory on a restart."""


class WorkflowInterceptor(JobInterceptor):
    """Both sides of a job: its workflow, and its runs."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        return JobInbound


def run_worker(queues: list[str] | None = None) -> None:
    """Work on these queues (default: all) until SIGTERM; raises UnknownQueue, NotConfigured."""
    connection.configuration()
    names = [known_queue(name) for name in queues] if queues else [queue.name for queue in QUEUES]
    chosen = [queue for queue in QUEUES if queue.name in names]
    logs.configure()
    logging.getLogger("temporalio.activity").setLevel(logging.ERROR)  # telemetry tells how each run ended
    label = settings().worker_name or "-".join([*(queue.name for queue in chosen), str(os.getpid())])
    name = f"{label}@{os.uname().nodename}"
    supervise(lambda: _to_its_end(_work(name, chosen)))


def check() -> Iterator[tuple[str, str, str]]:
    """For `doctor`: what keeps a worker from starting, as (where, problem, how to mend it)."""
    if not jobs():
        yield "jobs/", "declares no job", "declare one with @job"
    try:
        workflows_of_jobs(), activities_of_jobs()
    except JobDeclarationError as error:
        yield "jobs/", str(error), "correct it: no worker starts like this"
        return
    from . import determinism  # no worker needs it

    yield from determinism.check(runner().restrictions.passthrough_modules)


def runner() -> ContainedRunner:
    """Your workflows run in Temporal's sandbox; what they import of ours, and these libraries, does not."""
    package = jobs_package.__name__.rpartition(".")[0]
    theirs = {each.__module__ for each in workflows_of_jobs()}
    root = "calls contract health large_results logs ops payloads queues runtime sampling settings telemetry tracing"
    ours = [f"{package}.{name}" for name in root.split()]
    plain = [name for name in job_modules() if name not in theirs]
    passed = [*PASSED_THROUGH, *ours, *plain]
    return ContainedRunner(SandboxRestrictions.default.with_passthrough_modules(*passed))


def workflows() -> list[type]:
    """Those of jobs/, and the one for all jobs that are functions."""
    return [*workflows_of_jobs(), OneActivity]


def replayer() -> Replayer:
    """Replays recorded histories as a worker would: raises what a deployment of this code would meet."""
    return Replayer(
        workflows=[*workflows(), Lock],
        data_converter=data_converter(),
        interceptors=[WorkflowInterceptor()],
        workflow_runner=runner(),
    )


def make_workers(client: Client, queue: Queue) -> list[Worker]:
    """The worker of this queue, and one for each of its jobs that has a rate limit."""
    each: dict[str, Any] = {
        "activity_executor": Threads(queue.concurrency, queue.name),
        "max_concurrent_activities": queue.concurrency,
        "max_heartbeat_throttle_interval": FRESH,
        "activity_task_poller_behavior": PollerBehaviorAutoscaling(),
        "graceful_shutdown_timeout": timedelta(seconds=settings().drain),
    }
    functions = {name: job.function for name, job in jobs().items() if not job.workflow}
    limited = [
        Worker(
            client,
            task_queue=job.task_queue(queue.name),
            activities=[functions[name]],
            interceptors=[WorkflowInterceptor()],
            max_task_queue_activities_per_second=job.per_second,
            **each,
        )
        for name, job in jobs().items()
        if job.per_second
    ]
    return [make_worker(client, queue, activities=[*functions.values(), *activities_of_jobs()], **each), *limited]


def make_worker(client: Client, queue: Queue, **activities: Any) -> Worker:
    """For the workflows of this queue, and for its activities if they are given."""
    return Worker(
        client,
        task_queue=queue.name,
        workflows=workflows(),
        interceptors=[WorkflowInterceptor()],
        workflow_runner=runner(),
        max_cached_workflows=settings().max_cached_workflows,
        max_concurrent_workflow_tasks=max(4 * (os.cpu_count() or 1), 8),
        workflow_task_poller_behavior=PollerBehaviorAutoscaling(),
        sticky_queue_schedule_to_start_timeout=STICKY,
        **activities,
    )


def _to_its_end(work: Coroutine[Any, Any, int]) -> int:
    """Run it; a task that a job made and that raises SystemExit, which ends a loop, does not end this one.

    Unlike asyncio.run it waits for no task at the end: one that does not end would keep a dead worker.
    """
    loop = asyncio.new_event_loop()
    main = loop.create_task(work)
    while not main.done():
        try:
            loop.run_until_complete(main)
        except (SystemExit, KeyboardInterrupt, RuntimeError) as stray:  # RuntimeError: by `loop.stop()`
            if not main.done():
                log.error("a task that a job made raised what ends a process", error=describe(stray), exc_info=stray)
    return main.result()


async def _work(name: str, queues: Sequence[Queue]) -> int:
    """Until it shall stop; the exit code."""
    for module in job_modules():
        import_module(module)
    workflows_of_jobs(), activities_of_jobs()
    health.beat(name)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    replace = asyncio.create_task(too_many.wait())
    replace.add_done_callback(lambda _: stop.set())
    alive, runtime = asyncio.create_task(_beat(name)), _runtime()
    connecting = asyncio.create_task(connect_patiently(runtime=runtime, identity=name))
    if port := settings().worker_port:
        loop = asyncio.get_running_loop()
        health.serve(name, settings().worker_host, port, lambda: _ready(connecting, loop))
    await asyncio.wait([connecting, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
    if connecting.done():
        await take_over(connecting.result(), settings().run_dir / f"{name.partition('@')[0]}.held")
    while not stop.is_set():
        began = time.monotonic()
        client = await connect_patiently(runtime=runtime, identity=name)
        try:
            await asyncio.create_task(_serve(client, queues, stop))
        except Exception:  # a server that starts knows none of its calls for a moment, and the SDK takes that as final
            if time.monotonic() - began < FIRM:
                raise
            log.exception("the server refused this worker; it begins anew")
    alive.cancel()
    health.heartbeat_file(name).unlink(missing_ok=True)
    await calls.settled()
    return REPLACE if replace.done() else 0


async def _serve(client: Client, queues: Sequence[Queue], stop: asyncio.Event) -> None:
    """Until it shall stop: then nothing new, the running jobs to their end, and the last steps of their workflows."""
    workers = [worker for queue in queues for worker in make_workers(client, queue)]
    workers.append(Worker(client, task_queue=INTERNAL_QUEUE, workflows=[Lock]))
    async with AsyncExitStack() as running, AsyncExitStack() as finishing:
        for worker in workers:
            await running.enter_async_context(worker)
        log.info("working", queues=[queue.name for queue in queues])
        await stop.wait()
        log.info("stopping: running jobs may finish", seconds=settings().drain)
        if busy():
            other = await connection.connect()  # one client may have only one worker on a queue
            for queue in queues:
                await finishing.enter_async_context(make_worker(other, queue))
            await asyncio.gather(*(worker.shutdown() for worker in workers))
            await asyncio.sleep(LAST_STEPS)


def _runtime() -> Runtime:
    port = settings().worker_metrics_port
    metrics = PrometheusConfig(
        bind_address=f"{settings().worker_host}:{port}",
        counters_total_suffix=True,
        unit_suffix=True,
        durations_as_seconds=True,
    )
    return core(metrics=metrics if port else None, worker_heartbeat_interval=timedelta(seconds=SIGN_OF_LIFE))


async def _beat(name: str) -> None:
    """The event loop turns: the sign of life that a probe looks for."""
    while True:
        try:
            health.beat(name)
        except OSError as error:  # the jobs' own heartbeats go to the server
            log.warning("no heartbeat file", error=str(error))
        await asyncio.sleep(5)


def _ready(connecting: "asyncio.Task[Client]", loop: asyncio.AbstractEventLoop) -> bool:
    """Asked in the probe's thread."""
    if not connecting.done():
        return False
    answer = connecting.result().service_client.check_health(timeout=timedelta(seconds=1))
    with suppress(TimeoutError, RPCError, RuntimeError):
        return asyncio.run_coroutine_threadsafe(answer, loop).result(2)
    return False
