"""Keep what a worker runs, and show that it lives, from a thread: also while a job blocks the event loop.

A lease renewed by the loop ends under a job that computes for a minute, and a second worker starts it too. A job that
blocks the loop past its hard limit cannot be stopped from inside: it costs the process its life, and nobody else's job.
"""

import asyncio
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import structlog

from .. import health, telemetry
from ..runtime.connection import UNAVAILABLE, text, texts
from ..runtime.errors import shorten_traceback
from ..runtime.record import job_key, script
from ..settings import settings
from . import dead_letters
from .execution import Taken, ending
from .limits import over_hard_limit
from .supervisor import connect_blocking

if TYPE_CHECKING:
    from .worker import QueueWorker

log = structlog.get_logger(__name__)
RETRY = 1.0  # seconds after which a renewal that failed is tried again: others wait for it before they take over
BLOCKED = 5.0  # seconds without a turn of the loop, and over the hard limit, until the process ends


class LeaseKeeper(threading.Thread):
    """Every `renewal` seconds: a sign of life, leases, cancellations that went unheard, jobs that block."""

    def __init__(self, worker: "QueueWorker") -> None:
        super().__init__(name="lease-keeper", daemon=True)
        self.worker = worker
        self.client = connect_blocking()
        self.step = self.client.register_script(script())
        self.loop_thread = threading.get_ident()
        if port := settings().worker_port:
            health.serve(worker.name, settings().worker_host, port, self.ready)

    def ready(self) -> bool:
        """Whether Redis answers."""
        try:
            return bool(self.client.ping())
        except UNAVAILABLE:
            return False

    def run(self) -> None:
        while True:
            renewed = self._guarded(self.renew, "leases not renewed")
            self._guarded(self.end_a_blocking_job, "a job that blocks the event loop was not ended")
            self._guarded(self.beat, "no heartbeat")
            time.sleep(settings().renewal if renewed else min(RETRY, settings().renewal))

    def _guarded(self, part: Callable[[], None], problem: str) -> bool:
        """Whatever goes wrong, the other parts and the next round must come, or running jobs are started twice."""
        try:
            part()
        except Exception as error:
            log.warning(problem, error=repr(error))
            return False
        return True

    def beat(self) -> None:
        """While the event loop turns, or has not stood still for long."""
        if time.monotonic() - self.worker.ticked_at < health.ALIVE / 2:
            health.beat(self.worker.name)

    def renew(self) -> None:
        """One round."""
        running = list(self.worker.running.values())
        entry = {"queues": self.worker.queues, "concurrency": self.worker.max_jobs, "running": self.worker.occupied()}
        held = [part for taken in running for part in (taken.id, taken.name, taken.queue)]
        for job_id in self._do("renew", self.worker.execution.owner, self.worker.name, json.dumps(entry), *held):
            self.worker.loop.call_soon_threadsafe(self.worker.interrupt, text(job_id), "cancelled")

    def end_a_blocking_job(self) -> None:
        """If the loop stands still in a job over its hard limit: a dead letter, the others handed back, and the end."""
        if time.monotonic() - self.worker.ticked_at < BLOCKED:
            return
        task = asyncio.current_task(self.worker.loop)
        over = [taken for taken in over_hard_limit(self.worker, BLOCKED) if self.worker.tasks.get(taken.id) is task]
        for blocking in over:
            stack = "".join(traceback.format_stack(sys._current_frames()[self.loop_thread]))
            self._give_up(blocking, stack)
            for taken in list(self.worker.running.values()):
                if taken is not blocking:
                    self._do("finish", *ending(taken, self.worker.execution.owner, "queued", "handed_back"))
                    _tell(taken, "handed_back")
            about = {"job_id": blocking.id, "job": blocking.name, "attempt": blocking.attempt, "queue": blocking.queue}
            log.critical("a job blocks the event loop over its hard limit: this process ends", **about)
            telemetry.leave()
            os.kill(os.getpid(), signal.SIGKILL)

    def _give_up(self, taken: Taken, stack: str) -> None:
        call = json.loads(taken.message)
        error = f"TimedOut: longer than {self.worker.jobs[taken.name].hard_limit:g} s, and the event loop was blocked"
        letter = dead_letters.encode(
            taken.id,
            texts(cast("dict[bytes, bytes]", self.client.hgetall(job_key(taken.id)))),
            call["a"],
            call["k"],
            reason="timed out",
            error=error,
            traceback=shorten_traceback(stack),
        )
        owner = self.worker.execution.owner
        self._do("finish", *ending(taken, owner, "failed", "timed_out", letter=letter, error=error))
        _tell(taken, "timed_out", error=error)

    def _do(self, *arguments: str | bytes | int) -> list[bytes]:
        return self.step(keys=[], args=arguments) or []


def _tell(taken: Taken, outcome: str, **details: str) -> None:
    if taken.watched:
        taken.watched.ended(outcome, **details)
