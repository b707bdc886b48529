"""Ends that only a Celery job can have, and reports of texts that no store takes as they are."""

import json

import pytest

from ..contract.service import Service
from ..contract.valkey import ask

LONGEST = 8 * 1024  # bytes of a text in a job's document


@pytest.mark.parametrize("how", ["progress", "retry", "snooze"])
def test_a_text_that_cannot_be_encoded_is_reported_and_costs_no_run(service: Service, how: str) -> None:
    job = service.submit("says", {"label": f"says-by-{how}", "how": how})
    status = service.wait(job)
    assert len(service.effects(label=f"says-by-{how}")) == (1 if how == "progress" else 2)
    assert status["attempts"] == (2 if how == "retry" else 1)
    if how == "progress":
        assert status["progress"]["message"].startswith("half an emoji \\ud83d, and ")
        assert len(json.dumps(status["progress"])) < 3 * LONGEST


def test_a_job_that_ignores_its_message_is_cancelled(service: Service) -> None:
    status = service.wait(service.submit("wishes", {"label": "ignores", "kind": "ignore"}), "cancelled")
    assert len(service.effects(label="ignores")) == 1
    assert not status["dead_letter"]


def test_a_job_that_rejects_its_message_is_a_dead_letter(service: Service) -> None:
    job = service.submit("wishes", {"label": "rejects", "kind": "reject"})
    assert service.wait(job, "failed")["error"] == "PermanentError: rejected by the job: not mine"
    assert service.get(f"/dead-letters/{job}")["reason"] == "permanent"
    assert len(service.effects(label="rejects")) == 1


@pytest.mark.parametrize(("kind", "attempts"), [("reject and requeue", 1), ("retry()", 2), ("bare Retry", 2)])
def test_a_job_that_asks_celery_for_another_run_gets_one(service: Service, kind: str, attempts: int) -> None:
    job = service.submit("wishes", {"label": kind.replace(" ", "-"), "kind": kind})
    assert service.wait(job, within=15)["attempts"] == attempts
    assert len(service.effects(label=kind.replace(" ", "-"))) == 2


def test_a_warning_as_an_error_fails_its_job_alone(service: Service) -> None:
    job = service.submit("wishes", {"label": "warns", "kind": "warning"})
    assert service.wait(job, "failed")["error"] == "UserWarning: as an error"
    service.wait(service.submit("noop"))


def test_an_end_that_redis_refuses_is_recorded_when_it_has_memory_again(service: Service) -> None:
    held = {
        kind: service.submit("holds", {"label": f"holds-{kind}", "until_effect": "memory-is-full"})
        for kind in ("one", "another")
    }
    for kind in held:
        service.told(f"holds-{kind}")
    waiting = service.submit("noop", queue="bulk")
    ask(service, "CONFIG", "SET", "maxmemory", "1")
    try:
        assert service.post("noop").status_code == 503
        service.gateway.post("/effects", json={"label": "memory-is-full"}).raise_for_status()
        for kind in held:
            service.told(f"holds-{kind} end")
        assert service.post("noop").status_code == 503
        assert service.http.get("/health/live").status_code == 200
    finally:
        ask(service, "CONFIG", "SET", "maxmemory", "0")
    for kind, job in held.items():
        assert service.wait(job, within=10)["attempts"] == 1
        assert len(service.effects(label=f"holds-{kind}")) == 1
    service.wait(waiting, within=10)
    assert service.dead_letters(job="holds") == service.dead_letters(job="noop") == []
    service.wait(service.submit("noop"), within=20)
