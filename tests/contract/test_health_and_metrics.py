"""Probes say what is wrong and only that, and the numbers are the truth."""

import subprocess
import time

import httpx

from .installed import Installed
from .outage import Outage
from .processes import until, within
from .service import Service, running

DESCRIBE = """
import time
from {package}.ops.engine import engine

def spent():
    began = time.process_time()
    engine().job_types()
    return time.process_time() - began

engine()
print(spent(), min(spent() for _ in range(3)))
"""


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
    with running(installed, workers=0, lease=6, renewal=2) as service:
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
    with running(installed) as service:
        until(lambda: service.health()["ok"], 20, service.health)
        for _ in range(101):
            service.submit("noop", queue="critical", delay=3600)
        answer = service.http.get("/health/jobs")
        assert answer.status_code == 503
        assert any("critical" in reason and "101" in reason and "100" in reason for reason in answer.json()["reasons"])


def test_metrics_equal_the_truth_although_pool_processes_are_recycled_and_killed(installed: Installed) -> None:
    with running(installed, worker_max_tasks_per_child=50) as service:
        truth = {"noop": 880, "flaky": 70, "permanent": 30, "unexpected": 18, "poison": 1, "overrun": 1}
        payloads = {"flaky": {"label": "m", "times": 1}, "overrun": {"label": "m", "deaf": True}}
        jobs = [
            service.submit(name, payloads.get(name, {} if name == "noop" else {"label": "m"}))
            for name, count in truth.items()
            for _ in range(count)
        ]
        for job in jobs:
            service.wait(job, "succeeded", "failed", within=60)

        runs = {**truth, "flaky": 140, "poison": 3}
        for name, count in truth.items():
            assert service.metric("jobs_enqueued_total", job=name) == count
            assert service.metric("jobs_started_total", job=name) == runs[name]
            assert service.metric("jobs_finished_total", job=name) == runs[name]
            assert service.metric("jobs_queue_wait_seconds_count", job=name) == runs[name]
        outcomes = {
            (name, outcome): service.metric("jobs_finished_total", job=name, outcome=outcome)
            for name, outcome in (("noop", "succeeded"), ("flaky", "retried"), ("flaky", "succeeded"))
        }
        assert outcomes == {("noop", "succeeded"): 880, ("flaky", "retried"): 70, ("flaky", "succeeded"): 70}
        assert service.metric("jobs_finished_total", outcome="succeeded") == 950
        assert service.metric("jobs_dead_letter_depth") == 50
        assert service.metric("jobs_in_flight") == 0
        assert service.metric("jobs_workers", queue="default") == 1
        assert service.metric("jobs_duration_seconds_count", job="noop") == 880
        assert service.metric("jobs_duration_seconds_sum", job="overrun") >= 3


def test_the_jobs_are_described_once_and_not_for_each_scrape(service: Service) -> None:
    """Their schemas take a millisecond each, in the event loop that answers everybody."""
    code = DESCRIBE.format(package=service.installed.package)
    command = [service.installed.python, "-c", code]
    printed = subprocess.check_output(command, cwd=service.folder, env=service.environment, text=True)
    first, later = map(float, printed.split())
    assert later < first / 5


def test_an_outage_of_the_broker_is_told_but_restarts_nobody(outage: Outage) -> None:
    service = outage.service
    for path, status in (("/health/live", 200), ("/health/ready", 503), ("/health/jobs", 503), ("/metrics", 503)):
        with within(3):
            assert service.http.get(path).status_code == status
    assert not service.health()["broker"]
    assert service.health()["reasons"]
    service.cli("health", code=3)
    outage.wait_until_it_shows()
    assert outage.worker.returncode is None
    service.cli("health", "--worker", outage.name)
    assert httpx.get(f"{outage.probe}/live").status_code == 200
    assert httpx.get(f"{outage.probe}/ready").status_code == 503
    service.start_broker()
    until(lambda: service.http.get("/health/jobs").status_code == 200, 60, service.health)
    assert outage.worker.returncode is None
    service.wait(service.submit("noop"))


def test_a_frozen_worker_fails_its_own_probe(outage: Outage) -> None:
    assert outage.frozen.http.get("/health/jobs").status_code == 503
    outage.wait_until_it_shows()
    outage.frozen.cli("health", "--worker", outage.frozen_name, code=1)
