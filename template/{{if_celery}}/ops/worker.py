"""The worker process: queues in order, leases on what it holds, a sign of life, an end that loses and doubles nothing.

A plain warm shutdown waits for a long job until the platform kills the worker; a cold one drops what runs. Here SIGTERM
starts Celery's warm shutdown, and what still runs after `drain` seconds goes back to the queue without spending a try.
"""

import ctypes
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, cast

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import bootsteps, signals
from celery.exceptions import Ignore, InvalidTaskError
from celery.platforms import EX_FAILURE
from celery.utils.nodenames import host_format
from celery.worker import state
from celery.worker.control import control_command
from celery.worker.request import Request
from kombu import Message
from redis import Redis

from .. import broker, health, telemetry
from ..celery import app
from ..contract import BrokerUnavailable
from ..queues import QUEUES
from ..runtime.connection import UNAVAILABLE, redis
from ..runtime.errors import describe
from ..runtime.record import clear_notes, envelope, is_job_id, owner, queue_of, records, require_envelope
from ..runtime.routing import known_queue
from ..runtime.task import JobTask, StandIn
from ..settings import settings
from . import losses, repair, workers
from .leases import LeaseKeeper


def run_worker(queues: list[str] | None = None) -> None:
    """Work on these queues (default: all), most urgent first; exits with 0 after SIGTERM, else 1."""
    broker.require()
    names = [known_queue(name) for name in queues] if queues else [queue.name for queue in QUEUES]
    chosen = [queue for queue in QUEUES if queue.name in names]
    app.conf.worker_prefetch_multiplier = min(queue.prefetch for queue in chosen)
    hostname = settings().worker_name or "-".join([*(queue.name for queue in chosen), str(os.getpid())])
    worker = app.Worker(  # not app.worker_main, which drops the exit code
        hostname=host_format(f"{hostname}@%h"),
        queues=[queue.name for queue in chosen],
        concurrency=max(queue.concurrency for queue in chosen),
        without_gossip=True,
        without_mingle=True,
        loglevel=settings().log_level,
    )
    worker.start()
    sys.exit(EX_FAILURE if worker.exitcode is None else worker.exitcode)  # None: WorkerTerminate, by a cold shutdown


def check() -> Iterator[tuple[str, str, str]]:
    """For `doctor`: what in Celery's configuration breaks the patterns, as (where, problem, how to mend it)."""
    wanted: dict[str, object] = {"task_acks_late": True, "task_reject_on_worker_lost": True}
    wanted |= {"task_serializer": "json", "result_serializer": "json", "accept_content": ["json"]}
    for name, value in wanted.items():
        if (actual := app.conf[name]) != value:
            yield f"Celery {name}", f"is {actual!r}, the patterns need {value!r}", "leave it as in celery.py"
    if app.conf.beat_schedule:
        yield (
            "Celery beat_schedule",
            f"has {', '.join(app.conf.beat_schedule)}, which never run",
            "use SCHEDULES in jobs/",
        )
    for name, task in sorted(app.tasks.items()):
        if not name.startswith("celery."):
            yield from _check_options(name, task)
    with suppress(BrokerUnavailable, *UNAVAILABLE):
        for name, count, mend in losses.strays():
            if count:
                yield f"queue {name}", f"holds {count} messages that no worker reads", mend
    yield from repair.check()


def _check_options(name: str, task: Any) -> Iterator[tuple[str, str, str]]:
    if not isinstance(task, JobTask):
        yield f"task {name}", "has a base class without the patterns", "derive that from runtime.task.JobTask"
        return
    if not task.acks_late:
        yield f"task {name}", "has acks_late=False: a worker that dies loses it", "leave that out"
    if not task.reject_on_worker_lost:
        yield f"task {name}", "has reject_on_worker_lost=False: a process that dies loses it", "leave that out"
    if task.serializer != "json":
        yield f"task {name}", f"has serializer={task.serializer!r}, which workers refuse", "leave that out"
    if task.rate_limit:
        yield (
            f"task {name}",
            f"has rate_limit={task.rate_limit!r}, which counts in each worker by itself",
            "use TokenBucket",
        )


class JobRequest(Request):
    """What the main process does for a job whose pool process cannot: free it when that died, or hand it back."""

    stopped = False  # its process was killed by us, to hand it back

    def __init__(self, message: Message, **options: Any) -> None:
        super().__init__(message, **options)
        if not is_job_id(self.id):
            raise InvalidTaskError(f"no job can have the id {self.id!r}")
        require_envelope(self._context)
        clear_notes(self._context)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, MemoryError):  # Celery would end the whole worker
            self._context.update(error=describe(error))
            exc_info.exception = StandIn(describe(error))
        if isinstance(error, (WorkerLostError, SystemExit)) and not self.stopped:
            with suppress(*UNAVAILABLE):  # if not now, the lease ends by itself
                records().release(self.id, owner(self.worker_pid))
            self._speak_for(lambda: self._context.run.ended("lost"), error)
        if isinstance(error, Ignore) and len(error.args) == 2:  # Celery sends no event: it would seem to run on
            self.send_event(error.args[0], exception=error.args[1])
        super().on_failure(exc_info, send_failed_event, return_ok)

    def _success_was_stored(self) -> bool:
        """To Celery: deliver it again although it succeeded, since its fan-in may not know yet."""
        return False

    def on_timeout(self, soft: bool, timeout: float) -> None:
        over = partial(super().on_timeout, soft, timeout)
        return over() if soft else self._speak_for(over, TimeLimitExceeded(timeout))

    def _announce_cancelled(self, emit_retry: bool = True) -> None:
        self.hand_back()
        super()._announce_cancelled(emit_retry=False)

    def hand_back(self) -> None:
        """We stopped the run, not the job: the same message will run again, without a try spent."""
        self._speak_for(lambda: records().finish(self._context, "queued", "handed_back"))

    def _speak_for(self, call: Callable[[], Any], error: BaseException | None = None) -> None:
        """Call for a run whose process cannot tell of its end any more."""
        request, ran = self._context, time.time() - (self.time_start or time.time())
        about = (self.name, queue_of(request), self.id, (request.retries or 0) + 1, envelope(request))
        context = copy_context()  # what is logged later in this process is not of this job
        request.update(run=context.run(telemetry.Run, "celery", *about, time.monotonic() - ran, error))
        context.run(call)


class LoopTicks(bootsteps.StartStopStep):
    """Notes that the worker's event loop turns; it need not while the consumer is down (no broker, or a drain)."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    ticked_at = math.inf

    def start(self, parent: Any) -> None:
        self.tick()
        self.timer = parent.timer.call_repeatedly(1.0, self.tick)

    def stop(self, parent: Any) -> None:
        self.timer.cancel()
        LoopTicks.ticked_at = math.inf

    @staticmethod
    def tick() -> None:
        LoopTicks.ticked_at = time.monotonic()


class DrainLimit(bootsteps.StartStopStep):
    """Bounds the end that an unrecoverable error brings about, too: Celery waits for running jobs without a limit."""

    def close(self, parent: Any) -> None:
        _drain()


steps = cast("dict[str, set[type]]", app.steps)
steps["worker"].add(DrainLimit)
steps["consumer"].add(LoopTicks)
keeper: LeaseKeeper | None = None


@signals.celeryd_after_setup.connect
def _refuse_pools_without_limits(instance: Any, **_: Any) -> None:
    pool = instance.pool_cls.__module__.rpartition(".")[2]
    if pool in ("thread", "gevent", "eventlet"):
        raise SystemExit(f"pool {pool!r} cannot stop a job at its limit: use prefork, the default, or solo to debug")


@signals.celeryd_after_setup.connect
def _refuse_tasks_without_patterns(**_: Any) -> None:
    for name, task in sorted(app.tasks.items()):
        if not isinstance(task, JobTask):  # its lease could not be renewed, nor those beside it
            why = "has a base class without the patterns: derive that from runtime.task.JobTask"
            raise SystemExit(f"task {name} {why}")


@signals.worker_ready.connect
def _keep_leases(sender: Any, **_: Any) -> None:
    global keeper
    if keeper is not None:
        return  # the consumer was started again after the broker had gone
    name, queues = sender.hostname, list[str]()

    def enlist(client: Redis) -> None:
        size, running = sender.pool.num_processes, len(state.active_requests)
        if sender.task_consumer:  # else it is connecting
            queues[:] = [queue.name for queue in sender.task_consumer.queues if size]
        workers.enlist(client, name, {"queues": queues, "concurrency": size, "running": running})

    def sign_of_life(_: Redis) -> None:
        if time.monotonic() - LoopTicks.ticked_at < health.ALIVE / 2:
            health.beat(name)

    def ready() -> bool:
        with suppress(*UNAVAILABLE):
            broker.ping()
            return True
        return False

    keeper = LeaseKeeper(sender.controller, {"heartbeat": sign_of_life, "enlist": enlist})
    keeper.start()
    if port := settings().worker_port:
        health.serve(name, settings().worker_host, port, ready)


@signals.worker_shutting_down.connect
def _drain(**_: Any) -> None:
    """Start the drain time, once."""
    if keeper is not None and not keeper.draining:
        keeper.draining = True
        timer = threading.Timer(settings().drain, keeper.hand_back_and_exit)
        timer.daemon = True
        timer.start()


@signals.worker_shutdown.connect
def _leave(sender: Any, **_: Any) -> None:
    if keeper is not None:
        with suppress(*UNAVAILABLE):
            keeper.client.hdel(workers.WORKERS, sender.hostname)
        health.leave(sender.hostname)


@signals.worker_process_init.connect
def _begin_of_a_pool_process(**_: Any) -> None:
    """It runs one job at a time, and must not outlive the main process: nobody would renew its lease (Linux)."""
    records().connection = redis().connection_pool.make_connection()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@signals.worker_process_shutdown.connect
def _end_of_a_pool_process(**_: Any) -> None:
    telemetry.leave()


@signals.task_received.connect
def _take_cancelled_at_once(request: Any, **_: Any) -> None:
    """What waits for a job that was cancelled before its message came here must not wait until that is due."""
    if request.eta and request.eta.timestamp() > time.time():
        with suppress(*UNAVAILABLE):
            if records().field(request.id, "cancel"):
                request._eta = None


@control_command(args=[("job_id", str)])
def interrupt(panel: Any, job_id: str) -> dict[str, bool]:
    """Raise SoftTimeLimitExceeded in a running job, so that its `finally` blocks run; the job's record says why.

    One that waits here for its time is taken now, so that what waits for it hears at once that it was cancelled.
    """
    for request in [request for request in list(state.requests.values()) if request.id == job_id]:
        if request.worker_pid and request in state.active_requests:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(request.worker_pid, signal.SIGUSR1)
            return {"interrupted": True}
        if timer := getattr(request, "_eta_timer_entry", None):
            timer.cancel()
            request._eta_timer_entry = None
            timer()
    return {"interrupted": False}
