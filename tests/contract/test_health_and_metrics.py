"""Probes say what is wrong and only that, and the numbers are the truth."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from .processes import Process, free_ports, listening, until
from .service import Installed, Service

LONGER_THAN_A_SIGN_OF_LIFE = 65


@dataclass
class Outage:
    """What shows only after a minute; started before the other tests, looked at after them."""

    service: Service
    worker: Process
    worker_port: int
    name: str
    frozen: Service
    frozen_names: list[str]
    since: float


@pytest.fixture(scope="module", autouse=True)
def outage(installed: Installed) -> Iterator[Outage]:
    [port] = free_ports(1)
    with installed.running(workers=0) as service, installed.running() as frozen:
        worker = service.start_worker(worker_port=port)
        service.wait_for_workers(1)
        [name] = names(service)
        until(lambda: listening(port), 10)
        assert httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
        service.cli("health", "--worker", name)
        service.broker.kill_group()
        frozen_names = names(frozen)
        frozen.cli("health", "--worker", *frozen_names)
        [sleeper] = frozen.workers
        sleeper.freeze()
        yield Outage(service, worker, port, name, frozen, frozen_names, time.monotonic())


def names(service: Service) -> list[str]:
    return [worker["name"] for worker in service.health()["workers"]]


def test_a_healthy_service_says_so(service: Service) -> None:
    assert service.http.get("/health/live").status_code == 200
    assert service.http.get("/health/ready").status_code == 200
    answer = service.http.get("/health/jobs")
    health = answer.json()
    assert (answer.status_code, health["ok"], health["broker"], health["reasons"]) == (200, True, True, [])
    [worker] = health["workers"]
    assert {"critical", "default", "bulk"} <= set(worker["queues"])
    assert worker["concurrency"] > 0
    assert abs(time.time() - worker["seen_at"]) < 30
    assert service.cli_json("health")["ok"]
    service.cli("health", "--worker", worker["name"])
    service.cli("health", "--worker", "nobody", code=1)


def test_a_queue_without_a_worker_is_unhealthy_by_name(installed: Installed) -> None:
    with installed.running(workers=0) as service:
        everywhere = service.start_worker("critical", "default")
        dedicated = service.start_worker("bulk")
        until(lambda: service.health()["ok"], 20, service.health)
        dedicated.stop()
        answer = until(lambda: bad if (bad := service.http.get("/health/jobs")).status_code == 503 else None, 40)
        assert any("bulk" in reason for reason in answer.json()["reasons"])
        assert not any("critical" in reason for reason in answer.json()["reasons"])
        everywhere.kill_group()
        until(lambda: len(service.health()["reasons"]) >= 3, 40, service.health)
        assert "bulk" in service.cli("health", code=1)
        assert service.http.get("/health/ready").status_code == 200, "jobs can still be submitted"


def test_a_backlog_over_its_threshold_is_unhealthy_with_the_numbers(installed: Installed) -> None:
    with installed.running() as service:
        until(lambda: service.health()["ok"], 20, service.health)
        for _ in range(101):
            service.submit("noop", queue="critical", delay=3600)
        answer = service.http.get("/health/jobs")
        assert answer.status_code == 503
        assert any("critical" in reason and "101" in reason and "100" in reason for reason in answer.json()["reasons"])


def test_metrics_equal_the_truth_although_pool_processes_are_recycled_and_killed(installed: Installed) -> None:
    with installed.running(worker_max_tasks_per_child=10) as service:
        truth = {"noop": 80, "flaky": 10, "permanent": 5, "unexpected": 3, "poison": 1, "overrun": 1}
        payloads = {"flaky": {"label": "m", "times": 1}, "overrun": {"label": "m", "deaf": True}}
        jobs = [
            service.submit(name, payloads.get(name, {} if name == "noop" else {"label": "m"}))
            for name, count in truth.items()
            for _ in range(count)
        ]
        for job in jobs:
            service.wait(job, "succeeded", "failed", within=60)

        runs = {**truth, "flaky": 20, "poison": 3}
        for name, count in truth.items():
            assert service.metric("jobs_enqueued_total", job=name) == count
            assert service.metric("jobs_started_total", job=name) == runs[name]
            assert service.metric("jobs_finished_total", job=name) == runs[name]
            assert service.metric("jobs_queue_wait_seconds_count", job=name) == runs[name]
        outcomes = {
            (name, outcome): service.metric("jobs_finished_total", job=name, outcome=outcome)
            for name, outcome in (("noop", "succeeded"), ("flaky", "retried"), ("flaky", "succeeded"))
        }
        assert outcomes == {("noop", "succeeded"): 80, ("flaky", "retried"): 10, ("flaky", "succeeded"): 10}
        assert service.metric("jobs_finished_total", outcome="succeeded") == 90
        assert service.metric("jobs_dead_letter_depth") == 10
        assert service.metric("jobs_in_flight") == 0
        assert service.metric("jobs_workers", queue="default") == 1
        assert service.metric("jobs_duration_seconds_count", job="noop") == 80
        assert service.metric("jobs_duration_seconds_sum", job="overrun") >= 3


def test_an_outage_of_the_broker_is_told_but_restarts_nobody(outage: Outage) -> None:
    service, probe = outage.service, f"http://127.0.0.1:{outage.worker_port}/health"
    for path, status in (("/health/live", 200), ("/health/ready", 503), ("/health/jobs", 503), ("/metrics", 503)):
        started = time.monotonic()
        assert service.http.get(path).status_code == status
        assert time.monotonic() - started <= 3
    assert not service.health()["broker"]
    assert service.health()["reasons"]
    service.cli("health", code=3)
    until(lambda: time.monotonic() - outage.since > LONGER_THAN_A_SIGN_OF_LIFE, LONGER_THAN_A_SIGN_OF_LIFE)
    assert outage.worker.returncode is None
    service.cli("health", "--worker", outage.name)
    assert httpx.get(f"{probe}/live").status_code == 200
    assert httpx.get(f"{probe}/ready").status_code == 503
    service.start_broker()
    until(lambda: service.http.get("/health/jobs").status_code == 200, 40, service.health)
    assert outage.worker.returncode is None
    service.wait(service.submit("noop"))


def test_a_frozen_worker_fails_its_own_probe(outage: Outage) -> None:
    """After the outage, so that both waits are one."""
    service = outage.frozen
    assert service.http.get("/health/jobs").status_code == 503
    [name] = outage.frozen_names
    service.cli("health", "--worker", name, code=1)
