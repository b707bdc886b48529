"""Renew what this worker holds, so that only a dead worker's jobs are taken over, whatever their length or delay.

With Redis, Celery hands an unacknowledged message to another worker after `visibility_timeout`, also while its job still
runs or waits for its time; an hour's timeout instead leaves a killed worker's jobs for an hour. So the timeout is short (the
lease), and a thread of the main process moves it on for every message in hand, through long jobs, reconnects and the drain.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from celery.worker import state

from ..settings import settings
from .connection import UNAVAILABLE, connect
from .record import job_key, lock_key

log = structlog.get_logger(__name__)
INDEX = "unacked_index"  # kombu's sorted set of unacknowledged deliveries, scored by time


class LeaseKeeper(threading.Thread):
    """Renews deliveries, leases and singleton locks each `renewal` seconds; `also` is called with each round."""

    def __init__(self, also: Callable[[Any], None]) -> None:
        super().__init__(name="lease-keeper", daemon=True)
        self.client = connect()  # its own: a client shared over a fork could leave a lock held in the child
        self.also = also

    def run(self) -> None:
        while True:
            try:
                self.renew()
                self.also(self.client)
            except UNAVAILABLE as error:
                log.warning("leases not renewed", error=str(error))
            time.sleep(settings().renewal)

    def renew(self) -> None:
        now, lease = time.time(), int(settings().lease * 1000)
        with self.client.pipeline(transaction=False) as pipe:
            for request in list(state.requests.values()):
                pipe.zadd(INDEX, {request.message.delivery_tag: now}, xx=True)
                if request in state.active_requests:
                    pipe.pexpire(f"{job_key(request.id)}:lease", lease)
                    if singleton := getattr(request.task, "singleton", None):
                        pipe.pexpire(lock_key(request.task.name, singleton), lease)
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
