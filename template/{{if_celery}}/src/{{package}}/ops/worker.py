"""The worker process: its queues in order, its leases, its sign of life, and an end that loses and doubles nothing.

A plain warm shutdown waits for a long job until the platform kills the worker; a cold one drops what runs. Here SIGTERM
starts Celery's warm shutdown, and what still runs after `drain` seconds goes back to the queue without spending a try.
"""

import ctypes
import json
import math
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any, cast

from celery import bootsteps, signals
from celery.worker import state
from celery.worker.control import control_command

from .. import health
from ..celery import app
from ..queues import QUEUES
from ..runtime.connection import UNAVAILABLE, redis
from ..runtime.lease import LeaseKeeper
from ..runtime.routing import known_queue
from ..settings import settings

PR_SET_PDEATHSIG = 1
keeper: LeaseKeeper | None = None


def run_worker(queues: list[str] | None = None) -> None:
    """Work on these queues (default: all), most urgent first, until SIGTERM; raises UnknownQueue."""
    settings().require_redis_url()
    names = [known_queue(name) for name in queues] if queues else [queue.name for queue in QUEUES]
    chosen = [queue for queue in QUEUES if queue.name in names]
    app.conf.worker_prefetch_multiplier = min(queue.prefetch for queue in chosen)
    app.worker_main([
        "worker",
        f"--queues={','.join(queue.name for queue in chosen)}",
        f"--concurrency={max(queue.concurrency for queue in chosen)}",
        f"--hostname={settings().worker_name or '-'.join([*(queue.name for queue in chosen), str(os.getpid())])}@%h",
        "--without-gossip",
        "--without-mingle",
        f"--loglevel={settings().log_level}",
    ])  # fmt: skip


class LoopTicks(bootsteps.StartStopStep):
    """Notes that the worker's event loop turns.

    While the consumer is down (no broker, or a drain) no loop turns, and nothing is wrong with the worker.
    """

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


cast("dict[str, set[type]]", app.steps)["consumer"].add(LoopTicks)


@signals.worker_ready.connect
def _keep_leases(sender: Any, **_: Any) -> None:
    global keeper
    if keeper is not None:
        return  # the consumer was started again after the broker had gone
    name, size = sender.hostname, sender.pool.num_processes
    queues = [queue.name for queue in sender.task_consumer.queues]

    def enlist(client: Any) -> None:
        running = len(state.active_requests)
        entry = {"queues": queues, "concurrency": size, "running": running, "seen_at": time.time()}
        client.hset("workers", name, json.dumps(entry))

    def sign_of_life() -> None:
        if time.monotonic() - LoopTicks.ticked_at < health.ALIVE / 2:
            health.beat(name)

    def ready() -> bool:
        try:
            return bool(redis().ping())
        except UNAVAILABLE:
            return False

    keeper = LeaseKeeper(before=sign_of_life, after=enlist)
    keeper.start()
    if port := settings().worker_port:
        health.serve(name, settings().worker_host, port, ready)


@signals.worker_shutting_down.connect
def _drain(**_: Any) -> None:
    if keeper is not None:
        timer = threading.Timer(settings().drain, keeper.hand_back_and_exit)
        timer.daemon = True
        timer.start()


@signals.worker_shutdown.connect
def _leave(sender: Any, **_: Any) -> None:
    if keeper is not None:
        with suppress(*UNAVAILABLE):
            keeper.client.hdel("workers", sender.hostname)
        health.heartbeat_file(sender.hostname).unlink(missing_ok=True)


@signals.worker_process_init.connect
def _die_with_parent(**_: Any) -> None:
    """A pool process must not outlive the main process: nobody would renew its job's lease (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@control_command(args=[("job_id", str)])
def interrupt(panel: Any, job_id: str) -> dict[str, bool]:
    """Raise SoftTimeLimitExceeded in a running job, so that its `finally` blocks run; the job's record says why."""
    for request in list(state.active_requests):
        if request.id == job_id and request.worker_pid:
            os.kill(request.worker_pid, signal.SIGUSR1)
            return {"interrupted": True}
    return {"interrupted": False}
