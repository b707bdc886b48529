"""Workflows of Celery in the middle of which something happens."""

import json
from uuid import uuid4

import pytest

from ..contract.installed import Installed
from ..contract.processes import until
from ..contract.service import FINAL, Service, running

HEARD = 6.0  # seconds, far below a lease
REVOKE = """import sys
from celery.result import AsyncResult
from PACKAGE.celery import app
AsyncResult(sys.argv[1], app=app).revoke()
"""


def build(service: Service, construct: str) -> tuple[str, str, list[str]]:
    """The label of a workflow, the job that is special in it, and those that wait for that one."""
    label = str(uuid4())
    builder = service.submit("builds_special", {"shape": construct, "label": label})
    service.wait(builder)
    built = service.result(builder)
    return label, built["part"], built["waiting"]


def states(service: Service, jobs: list[str]) -> list[str]:
    return [service.status(job)["state"] for job in jobs]


def test_the_replay_of_a_failed_step_continues_its_chain_to_the_end(service: Service) -> None:
    label, part, waiting = build(service, "fails once")
    service.wait(part, "failed")
    until(lambda: states(service, waiting) == ["failed"] * 4, HEARD)
    assert f"step fails_once (job {part}) failed: PermanentError: not today" in service.status(waiting[-1])["error"]
    service.http.post(f"/api/v1/dead-letters/{part}/replay").raise_for_status()
    for job in waiting:
        until(lambda job=job: service.status(job)["state"] == "succeeded", 30, lambda: states(service, waiting))
        assert service.status(job)["error"] is None
    assert service.result(waiting[-1]) == [f"{label}-fine", f"{label}-two"]
    assert len(service.effects(label=f"{label}-one")) == 1


def test_a_process_that_dies_right_after_its_jobs_end_does_not_keep_the_fan_in_waiting(service: Service) -> None:
    label, part, [fan_in] = build(service, "dies")
    service.wait(part)
    service.wait(fan_in)
    assert service.result(fan_in) == [label, f"{label}-fine"]
    assert len(service.effects(label=label)) == 1
    assert len(service.effects(label=f"{label}-fan-in")) == 1


@pytest.mark.parametrize("which", ["the running step", "the last step"])
def test_a_chain_is_cancelled_at_the_step_that_runs_though_that_one_succeeds(service: Service, which: str) -> None:
    label, part, waiting = build(service, "deaf")
    service.told(label)
    service.http.delete(f"/api/v1/jobs/{part if which == 'the running step' else waiting[-1]}").raise_for_status()
    until(lambda: all(state in FINAL for state in states(service, [part, *waiting])), 15)
    assert set(states(service, waiting)) <= {"failed", "cancelled"}
    assert len(service.told(f"{label}-error")) == 1, "what was begun can be undone"
    assert not service.effects(label=f"{label}-one")
    assert not service.effects(label=f"{label}-two")


@pytest.mark.parametrize("by", ["job", "chain", "group"])
def test_a_replaced_job_ends_as_what_takes_its_place(service: Service, by: str) -> None:
    label, part, [one, fan_in] = build(service, f"replaced, {by}")
    service.wait(fan_in, within=15)
    assert service.result(fan_in) == [f"{label}-one", f"{label}-fine"]
    assert states(service, [part, one]) == ["succeeded"] * 2
    instead = f"{label}-instead"
    assert service.result(part) == ([f"{label}-first", instead] if by == "group" else instead)
    assert len(service.effects(label=instead)) == 1


def test_a_cancelled_part_frees_its_key(service: Service) -> None:
    key = str(uuid4())
    first = service.submit("effect", {"key": key}, delay=60)
    service.http.delete(f"/api/v1/jobs/{first}").raise_for_status()
    second = service.submit("effect", {"key": key})
    assert second != first
    service.wait(second)


def test_revoke_reaches_a_job_though_no_worker_listens(installed: Installed) -> None:
    with running(installed, workers=0) as service:
        job = service.submit("mark", {"label": "revoked"})
        service.start("revoke", installed.python, "-c", REVOKE.replace("PACKAGE", installed.package), job)
        until(lambda: service.status(job)["state"] == "cancelled", 30, lambda: json.dumps(service.status(job)))
        service.start_worker()
        until(lambda: service.queue("default")["depth"] == 0, 30)
        assert not service.effects(label="revoked")
