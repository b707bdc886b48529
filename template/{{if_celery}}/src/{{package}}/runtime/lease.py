"""Renew what this worker holds, so that only a dead worker's jobs are taken over, whatever their length or delay.

With Redis, Celery hands an unacknowledged message to another worker after `visibility_timeout`, also while its job
still runs or waits for its time; an hour's timeout instead leaves a killed worker's jobs for an hour. So the timeout
is short (the lease), and a thread of the main process moves it on for every message in hand, through long jobs,
reconnects and the drain.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from billiard.exceptions import WorkerLostError
from celery.worker import state
from celery.worker.request import Request
from redis import Redis

from ..settings import settings
from .connection import UNAVAILABLE, connect
from .record import job_key, records

log = structlog.get_logger(__name__)
INDEX = "unacked_index"  # kombu's sorted set of unacknowledged deliveries, scored by time


class JobRequest(Request):
    """What the main process must do for a job whose pool process cannot: free it when that died, hand it back at the
    end.
    """

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, (WorkerLostError, SystemExit)):
            with contextlib.suppress(*UNAVAILABLE):  # if not now, the lease ends by itself
                records().release(self.id)
        super().on_failure(exc_info, send_failed_event, return_ok)

    def _announce_cancelled(self, emit_retry: bool = True) -> None:
        self.hand_back()
        super()._announce_cancelled(emit_retry=False)

    def hand_back(self) -> None:
        """We stopped the run, not the job: the same message will run again, without a try spent."""
        records().finish(self._context, "queued", "handed_back")


class LeaseKeeper(threading.Thread):
    """Renews deliveries, leases and singleton locks each `renewal` seconds, between `before` and `after`."""

    def __init__(self, before: Callable[[], None], after: Callable[[Redis], None]) -> None:
        super().__init__(name="lease-keeper", daemon=True)
        self.client = connect()  # its own: a client shared over a fork could leave a lock held in the child
        self.before, self.after = before, after

    def run(self) -> None:
        while True:
            self.before()
            try:
                self.renew()
                self.after(self.client)
            except UNAVAILABLE as error:
                log.warning("leases not renewed", error=str(error))
            time.sleep(settings().renewal)

    def renew(self) -> None:
        """One round."""
        now, lease = time.time(), int(settings().lease * 1000)
        with self.client.pipeline(transaction=False) as pipe:
            for request in list(state.requests.values()):
                pipe.zadd(INDEX, {request.message.delivery_tag: now}, xx=True)
                if request in state.active_requests:
                    pipe.pexpire(f"{job_key(request.id)}:lease", lease)
                    if getattr(request.task, "singleton", None):
                        pipe.pexpire(f"lock:{request.task.name}", lease)
            pipe.execute()

    def hand_back_and_exit(self) -> None:
        """The drain time is over: stop what runs, put every message back, end the process."""
        held = list(state.requests.values())
        running = [request for request in held if request in state.active_requests and not request.acknowledged]
        for request in running:
            if request.worker_pid:
                os.kill(request.worker_pid, signal.SIGKILL)
        log.warning("drain time is over", handed_back=[request.id for request in running])
        try:
            for request in running:
                request.hand_back()
            if held:  # a delivery of time 0 is overdue: the next worker that looks, within a second, takes it
                self.client.zadd(INDEX, {request.message.delivery_tag: 0 for request in held}, xx=True)
        except UNAVAILABLE as error:
            log.warning("not handed back, taken over when their lease ends", error=str(error))
        os._exit(0)
