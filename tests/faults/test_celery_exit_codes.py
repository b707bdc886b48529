"""A supervisor restarts what failed: a worker that cannot continue ends with a code other than 0, and within DRAIN."""

import signal

from ..contract.installed import Installed
from ..contract.processes import Process, until
from ..contract.service import Service, running

BREAKS_AT_START = """
import sys
from celery import bootsteps
from {package}.celery import app
from {package}.ops.worker import run_worker

class Breaks(bootsteps.StartStopStep):
    requires = ("celery.worker.consumer.tasks:Tasks",)
    starts = 0

    def start(self, parent):
        Breaks.starts += 1
        if Breaks.starts == int(sys.argv[1]):
            raise RuntimeError("nothing expects this")

app.steps["consumer"].add(Breaks)
run_worker()
"""


def breaking_worker(service: Service, at_start: int, **settings: object) -> Process:
    """A worker whose consumer raises when it starts for the nth time; each reconnect starts it again."""
    code = BREAKS_AT_START.format(package=service.installed.package)
    return service.start("worker", service.installed.python, "-c", code, str(at_start), **settings)


def test_an_error_that_nobody_expects_at_the_start_ends_with_another_code_than_0(installed: Installed) -> None:
    with running(installed, workers=0) as service:
        worker = breaking_worker(service, at_start=1)
        assert worker.wait(30) == 1
        assert "nothing expects this" in worker.log.read_text()


def test_an_error_under_a_running_job_ends_within_drain_and_hands_the_job_back(installed: Installed) -> None:
    with running(installed, workers=0, drain=2) as service:
        worker = breaking_worker(service, at_start=2)
        job = service.submit("mark", {"label": "handed back", "seconds": 40})
        service.wait(job, "running")
        service.broker.kill_group()
        service.start_broker()
        assert worker.wait(35) == 1
        service.start_worker()
        until(lambda: len(service.effects(label="handed back")) == 2, 45)


def test_who_is_asked_to_stop_ends_with_0_also_when_it_hands_back(installed: Installed) -> None:
    with running(installed, workers=2, drain=1) as service:
        service.wait_for_workers(2)
        service.wait(service.submit("mark", {"label": "long", "seconds": 30}), "running")
        assert [worker.stop(within=20) for worker in service.workers] == [0, 0]


def test_a_cold_shutdown_drops_what_runs_so_it_is_no_success(installed: Installed) -> None:
    with running(installed) as service:
        service.wait(service.submit("noop"))
        [worker] = service.workers
        worker.send(signal.SIGQUIT)
        assert worker.wait(20) == 1
