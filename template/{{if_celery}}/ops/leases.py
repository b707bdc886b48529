"""Keep what a worker holds: deliveries, leases of jobs, singleton locks; and hand all of it back at the end.

Leases that depend on anything else, a full disk or a slow look at the broker, end under jobs that run, and a second
worker starts these beside the first.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import structlog
from celery.platforms import EX_OK
from celery.worker import state
from redis import Redis

from .. import telemetry
from ..runtime import transport
from ..runtime.connection import UNAVAILABLE, connect
from ..runtime.errors import describe
from ..runtime.record import RENEW, owner
from ..settings import settings

log = structlog.get_logger(__name__)


class LeaseKeeper(threading.Thread):
    """Renews deliveries, leases and singleton locks each `renewal` seconds; the `others` come after that.

    Celery on Redis hands an unacknowledged message to another worker after `visibility_timeout`, also while its job
    still runs or waits for its time; an hour's timeout instead leaves a killed worker's jobs for an hour. So it is
    short (the lease), and this thread moves it on for all in hand, through long jobs, reconnects and the drain.
    """

    def __init__(self, worker: Any, others: Mapping[str, Callable[[Redis], None]]) -> None:
        super().__init__(name="lease-keeper", daemon=True)
        self.worker, self.draining = worker, False
        self.client = connect()  # its own: a client shared over a fork could leave a lock held in the child
        self.others = others

    def run(self) -> None:
        while True:
            renewed = self._attempt("renew", self.renew)
            for name, step in self.others.items():
                self._attempt(name, partial(step, self.client))
            time.sleep(settings().renewal if renewed else settings().renewal / 8)

    @staticmethod
    def _attempt(name: str, step: Callable[[], None]) -> bool:
        """Whatever fails in a step, the next ones and the next round must come, or running jobs are started twice."""
        try:
            step()
        except Exception as error:
            log.warning("lease keeper: a step failed", step=name, error=describe(error))
            return False
        return True

    def renew(self) -> None:
        """One round."""
        lease = int(settings().lease * 1000)
        transport.renew(self.client, [request.message.delivery_tag for request in list(state.requests.values())])
        held = [
            part
            for request in list(state.active_requests)
            for part in (request.id, owner(request.worker_pid), request.name if request.task.singleton else "")
        ]
        self.client.eval(RENEW, 0, lease, *held)

    def hand_back_and_exit(self) -> None:
        """The drain time is over: stop what runs, put every message back, end the process."""
        held = list(state.requests.values())
        running = [request for request in held if request in state.active_requests and not request.acknowledged]
        for request in running:
            request.stopped = True
            if request.worker_pid:
                os.kill(request.worker_pid, signal.SIGKILL)
        log.warning("drain time is over", handed_back=[request.id for request in running])
        try:
            for request in running:
                request.hand_back()
            transport.hand_back(self.client, [request.message.delivery_tag for request in held])
        except UNAVAILABLE as error:
            log.warning("not handed back, taken over when their lease ends", error=str(error))
        telemetry.leave()
        os._exit(self.worker.exitcode or EX_OK)
