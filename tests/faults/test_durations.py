"""A job keeps its promises however long it lasts: less than a renewal, more, and more than the lease, by default."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from ..contract.installed import Installed
from ..contract.processes import until
from ..contract.service import Service, running

JOBS = {"celery": ("lasts",), "arq": ("lasts",), "temporal": ("lasts", "lasts_in_a_thread")}
SECONDS = {"shorter than a renewal": 4, "longer than a renewal": 12, "longer than the lease": 30}
HOW = ("succeeds", "fails", "retries", "snoozes", "is cancelled")
WORKERS = {"celery": 4, "arq": 1, "temporal": 1}  # enough for all to run at once


@dataclass
class Lasting:
    """All of them, running since they were submitted."""

    service: Service
    jobs: dict[tuple[str, int, str], str]


def longest(config: pytest.Config) -> int:
    return 30 if config.getoption("--all") else 12


@pytest.fixture(scope="module")
def lasting(installed: Installed, pytestconfig: pytest.Config) -> Iterator[Lasting]:
    stack = installed.stack.answers["stack"]
    with running(installed, workers=WORKERS[stack]) as service:
        wanted = [
            (job, seconds, how)
            for seconds in sorted(SECONDS.values(), reverse=True)
            if seconds <= longest(pytestconfig)
            for job in JOBS[stack]
            for how in HOW
        ]
        wanted.sort(key=lambda each: each[2] == "is cancelled")  # last: on a busy machine all these take their time
        jobs = {
            (job, seconds, how): service.submit(
                job, {"label": label(job, seconds, how), "seconds": seconds, "how": how}
            )
            for job, seconds, how in wanted
        }
        for (job, seconds, how), job_id in sorted(jobs.items(), key=lambda each: each[0][1]):
            if how == "is cancelled":
                [begun] = service.told(label(job, seconds, how), within=60)
                until(lambda begun=begun, seconds=seconds: time.time() - begun["at"] > seconds / 2, 30)
                assert service.http.delete(f"/api/v1/jobs/{job_id}").status_code in (200, 202)
        yield Lasting(service, jobs)


def label(job: str, seconds: int, how: str) -> str:
    return f"{job}-{seconds}-{how.replace(' ', '-')}"


def cases() -> list[Any]:
    return [
        pytest.param(seconds, how, marks=[pytest.mark.thorough] if seconds > 12 else [], id=f"{name}, {how}")
        for name, seconds in SECONDS.items()
        for how in HOW
    ]


@pytest.mark.parametrize(("seconds", "how"), cases())
def test_a_job_ends_rightly_after_any_duration(lasting: Lasting, seconds: int, how: str) -> None:
    service = lasting.service
    for job in JOBS[service.installed.stack.answers["stack"]]:
        job_id, name = lasting.jobs[job, seconds, how], label(job, seconds, how)
        final = {"fails": "failed", "is cancelled": "cancelled"}.get(how, "succeeded")
        status = service.wait(job_id, final, within=120)
        runs = 2 if how in ("retries", "snoozes") else 1
        assert len(service.effects(label=name)) == runs
        assert len(service.effects(label=f"{name} end")) == (final == "succeeded")
        assert status["attempts"] == (2 if how == "retries" else 1)
        assert status["dead_letter"] == (how == "fails")


def test_an_asyncio_job_starts_at_once_beside_blocking_ones(installed: Installed, lasting: Lasting) -> None:
    """Whatever those last, also beyond a renewal: on Temporal a plain function has a thread, on Celery a process."""
    service = lasting.service
    blocking = [service.submit(JOBS[installed.stack.answers["stack"]][-1], payload("block", 10)) for _ in range(2)]
    service.told("block", 2, within=60)
    for number in range(12):
        sent = time.time()
        job = service.submit("mark", {"label": f"beside {number}"})
        [begun] = service.told(f"beside {number}")
        assert begun["at"] - sent <= 1
        service.wait(job)
        until(lambda sent=sent: time.time() - sent > 0.8, 2)
    for job in blocking:
        assert service.wait(job, within=60)["attempts"] == 1


def payload(name: str, seconds: int) -> dict[str, object]:
    return {"label": name, "seconds": seconds, "how": "succeeds"}
