"""Workers and broker are killed, drained and replaced in the middle of work: nothing is lost, nothing is done twice.

All with default settings, unless a test says otherwise.
"""

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from .installed import Installed
from .outage import Outage
from .processes import until
from .service import Service, running


@dataclass
class Meanwhile:
    """What takes long only because it waits; started first, looked at last."""

    service: Service
    long: str
    delayed: str
    victim: str
    killed_at: float


@pytest.fixture(scope="module")
def meanwhile(installed: Installed, outage: Outage) -> Iterator[Meanwhile]:
    """And the outage, which test_health_and_metrics looks at."""
    with running(installed, workers=0) as service:
        doomed = service.start_worker("bulk")
        for _ in range(2):
            service.start_worker("critical", "default")
        victim = service.submit("mark", {"label": "victim", "seconds": 5}, queue="bulk")
        long = service.submit("mark", {"label": "long", "seconds": 45})
        delayed = service.submit("mark", {"label": "delayed"}, delay=40)
        service.told("long")
        service.told("victim")
        doomed.kill_group()
        killed_at = time.time()
        service.start_worker("bulk")
        yield Meanwhile(service, long, delayed, victim, killed_at)


@pytest.mark.usefixtures("meanwhile")
def test_300_jobs_through_five_killed_workers_and_a_killed_broker_have_one_effect_each(installed: Installed) -> None:
    with running(installed, workers=2) as service:
        keys = [f"order-{number}" for number in range(300)]
        jobs = [service.submit("effect", {"key": key, "seconds": 0.3, "after": 0.1}) for key in keys]
        workers = service.workers
        for number, fault_at in enumerate((20, 60, 100, 140, 180, 220)):
            until(lambda fault_at=fault_at: len(service.charges()) >= fault_at, 60, f"{fault_at} charges")
            if number == 3:
                service.broker.kill_group()
                service.start_broker()
            else:
                workers[number % 2].kill_group()
                workers[number % 2] = service.start_worker()
        last_fault = time.monotonic()

        until(lambda: len(service.charges()) == 300, 90, lambda: f"300 charges, there are {len(service.charges())}")
        for job in jobs:
            service.wait(job, within=max(1, 90 - (time.monotonic() - last_fault)))
        assert time.monotonic() - last_fault <= 90

        assert sorted(charge["key"] for charge in service.charges()) == sorted(keys)
        requests = sum(charge["requests"] for charge in service.charges())
        attempts = sum(service.status(job)["attempts"] for job in jobs)
        assert attempts > 300, "the faults met jobs that were running"
        assert requests <= attempts
        assert service.dead_letters() == []
        until(lambda: sum(queue["depth"] for queue in service.get("/queues")) == 0, 5)


def test_a_drained_worker_finishes_what_it_runs_and_takes_nothing_new(installed: Installed) -> None:
    with running(installed) as service:
        [worker] = service.workers
        job = service.submit("mark", {"label": "running", "seconds": 4})
        service.told("running")
        worker.send(signal.SIGTERM)
        stopped = time.monotonic()
        until(lambda: time.monotonic() - stopped > 1, 2)  # it has heard
        late = service.submit("mark", {"label": "late"})
        assert worker.wait(within=15) == 0, "it does not wait for its whole drain time"
        assert service.status(job)["state"] == "succeeded"
        assert service.status(late)["state"] == "queued"
        assert service.effects(label="late") == []
        service.start_worker()
        assert service.wait(late)["attempts"] == 1
        assert len(service.effects(label="running")) == 1


def test_six_drains_over_one_running_job_hand_it_back_and_spend_no_attempt(installed: Installed) -> None:
    with running(installed, workers=0, drain=1) as service:
        job = service.submit("effect", {"key": "drained", "seconds": 8})
        for number in range(6):
            worker = service.start_worker()
            service.told("start drained", number + 1, within=15)  # at once, not when a lease has run out
            assert worker.stop(within=10) == 0
            assert service.status(job)["state"] in ("queued", "retrying")
        service.start_worker()
        status = service.wait(job, within=40)
        assert status["attempts"] == 1
        assert len(service.effects(label="start drained")) == 7
        [charge] = service.charges(order_id="drained")
        assert charge["requests"] == 1
        assert service.dead_letters() == []


def test_a_worker_that_lost_its_broker_for_a_while_goes_on(installed: Installed) -> None:
    with running(installed) as service:
        job = service.submit("effect", {"key": "through the outage", "seconds": 3})
        waiting = service.submit("mark", {"label": "waiting"}, delay=4)
        service.told("start through the outage")
        service.broker.kill_group()
        [worker] = service.workers
        until(lambda: service.charges(order_id="through the outage"), 10)
        service.start_broker()
        assert service.wait(job)["attempts"] == 1
        service.wait(waiting)
        service.wait(service.submit("noop"))
        assert worker.returncode is None
        assert len(service.charges()) == 1


def test_a_killed_workers_job_is_taken_over_within_30_seconds(meanwhile: Meanwhile) -> None:
    service = meanwhile.service
    first, second = service.told("victim", 2, within=40)
    assert second["id"] == first["id"] == meanwhile.victim
    assert second["at"] - meanwhile.killed_at <= 30
    assert service.wait(meanwhile.victim)["attempts"] == 2


def test_a_job_longer_than_the_lease_and_a_delayed_one_run_exactly_once(meanwhile: Meanwhile) -> None:
    service = meanwhile.service
    for job, label in ((meanwhile.long, "long"), (meanwhile.delayed, "delayed")):
        assert service.wait(job, within=60)["attempts"] == 1
        assert len(service.effects(label=label)) == 1
    until(lambda: service.queue("default")["depth"] == 0, 5)
