"""Two minutes of faults under load: kills, freezes and drains of workers, kills and freezes of the broker, at random.

    uv run pytest tests/chaos [-s] [--stack arq|rabbitmq|temporal]

CHAOS_SEED=7 repeats a run's choices, CHAOS_SECONDS=600 goes on for longer. Many short jobs make it likely that a fault
meets a message between the broker and a worker, where a single loss would show. Run it when runtime/ or ops/worker.py
changes, and with a new version of Celery, kombu, arq or the broker.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread

import httpx
import pytest

from ..contract.installed import Installed
from ..contract.processes import until
from ..contract.service import Service, running

SECONDS = float(os.environ.get("CHAOS_SECONDS", "120"))
SEED = int(os.environ.get("CHAOS_SEED", time.time_ns() % 10_000))
WORKERS = 3
FAULTS = ["kill worker", "kill worker", "kill child", "drain worker", "freeze worker", "kill broker", "freeze broker"]


@pytest.fixture(scope="session")
def installed(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed.render(tmp_path_factory.mktemp("chaos") / "service", pytestconfig.getoption("stack"), {})


@pytest.fixture
def service(installed: Installed) -> Iterator[Service]:
    with running(installed, workers=WORKERS, lease=6, renewal=2, drain=2) as service:
        yield service


class Load(Thread):
    """Submits jobs under keys until told to stop; a submission that the broker refuses is repeated under its key."""

    def __init__(self, service: Service) -> None:
        super().__init__(daemon=True)
        self.service, self.over = service, False
        self.jobs: dict[str, str] = {}

    def run(self) -> None:
        while not self.over:
            time.sleep(0.04)  # some 20 a second, which three workers on two cores can keep up with
            number = len(self.jobs)
            payload = {"key": f"chaos-{number}", "seconds": (0, 0, 0, 0, 0.2, 1)[number % 6]}
            with suppress(httpx.TransportError):
                answer = self.service.post("effect", payload, key=payload["key"])
                if answer.status_code != 503:
                    assert answer.status_code in (200, 202), answer.text
                    self.jobs[payload["key"]] = answer.json()["id"]


def strike(service: Service, dice: random.Random) -> str:
    """One fault, and the replacement that a platform would start."""
    fault = dice.choice(FAULTS)
    worker = dice.choice(service.workers)
    if fault == "kill worker":
        worker.kill_group()
    elif fault == "kill child":  # as a lack of memory does; its parent replaces it
        children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
        if children:  # it may just have started
            os.kill(int(dice.choice(children)), signal.SIGKILL)
    elif fault == "drain worker":
        worker.stop(within=30)
    elif fault == "freeze worker":
        worker.freeze()
        time.sleep(dice.choice([2, 9]))  # shorter and longer than the lease
        worker.thaw()
    elif fault == "kill broker":
        service.broker.kill_group()
        time.sleep(dice.uniform(0, 2))
        service.start_broker()
    else:
        service.broker.freeze()
        time.sleep(dice.uniform(1, 4))
        service.broker.thaw()
    while len(service.workers) < WORKERS:
        service.start_worker()
    return fault


def test_every_job_has_one_effect_whatever_happens_on_the_way(service: Service) -> None:
    print(f"\nCHAOS_SEED={SEED}")
    dice, faults, load = random.Random(SEED), Counter[str](), Load(service)
    slots = sum(worker["concurrency"] for worker in service.health()["workers"])
    load.start()
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        time.sleep(dice.uniform(0.5, 4))
        faults[strike(service, dice)] += 1
    load.over = True
    load.join()
    keys = set(load.jobs)
    print(f"{len(keys)} jobs, faults: {dict(faults)}")

    def charged() -> set[str]:
        return {charge["key"] for charge in service.charges()}

    until(lambda: keys <= charged(), 90, lambda: f"never ran: {sorted(keys - charged())[:10]}")
    until(lambda: service.health().get("broker"), 30)  # it may have been killed last, and still read its file
    until(lambda: sum(queue["depth"] for queue in service.get("/queues")) == 0, 90, lambda: service.get("/queues"))
    for key, job in load.jobs.items():
        assert service.status(job)["state"] == "succeeded", (key, service.status(job))
    assert service.dead_letters() == []
    started = service.metric("jobs_started_total")
    in_flight = sum(queue["in_flight"] for queue in service.get("/queues"))
    assert started == service.metric("jobs_finished_total") + in_flight
    # The gateway charges once per key whatever we send, so count what it was sent: no run without leave, and no more
    # runs than the faults explain, each of which meets at most the jobs that were running.
    requests = sum(charge["requests"] for charge in service.charges())
    print(f"{started:.0f} runs, {requests} requests to the gateway")
    assert requests <= started
    assert started - len(keys) <= faults.total() * slots


def test_a_job_is_taken_over_when_every_worker_was_killed(service: Service) -> None:
    service.submit("effect", {"key": "victim", "seconds": 4})
    service.told("start victim")
    for worker in service.workers:
        worker.kill_group()
    assert not service.charges()
    service.start_worker()
    until(service.charges, 20)


def test_logs_tell_no_payload(service: Service) -> None:
    job = service.submit("effect", {"key": "confidential-4711"})
    service.wait(job)
    logs = "".join(log.read_text(errors="replace") for log in Path(service.folder, "logs").glob("*worker*.log"))
    assert "job succeeded" in logs
    assert "confidential-4711" not in logs.replace(job, ""), "on Temporal the id holds the key"
