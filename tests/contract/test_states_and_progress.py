"""A job can be followed from outside: its state, its own stages, live events, and it can be stopped."""

import json
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from .installed import Installed
from .processes import until
from .service import Service, running


def events(service: Service, job: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The server-sent events of a job until the server ends the stream."""
    with service.http.stream("GET", f"/api/v1/jobs/{job}/events", timeout=30) as stream:
        assert stream.status_code == 200
        assert stream.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in stream.iter_lines():
            if line.startswith("event:"):
                name = line.removeprefix("event:").strip()
            elif line.startswith("data:"):
                yield name, json.loads(line.removeprefix("data:"))


def test_a_job_goes_from_queued_to_succeeded_with_its_times(service: Service) -> None:
    job = service.submit("mark", {"label": str(uuid4()), "seconds": 0.5})
    assert service.status(job)["state"] in ("queued", "running")
    assert service.wait(job, "running")["finished_at"] is None
    status = service.wait(job)
    assert status["submitted_at"] <= status["started_at"] <= status["finished_at"] - 0.5
    assert status["attempts"] == 1
    assert status["error"] is None
    assert not status["dead_letter"]


def test_a_failed_job_says_why(service: Service) -> None:
    status = service.wait(service.submit("permanent", {"label": "why"}), "failed")
    assert "why: card expired" in status["error"]
    assert status["dead_letter"]


def test_the_stages_of_a_job_are_seen_while_it_runs(service: Service) -> None:
    job = service.submit("steps", {"seconds": 0.3})
    seen: dict[str, set[int]] = {}

    def finished() -> bool:
        status = service.status(job)
        progress = status["progress"]
        if status["state"] == "running" and progress["stage"]:
            seen.setdefault(progress["stage"], set()).add(progress["done"])
            assert progress["total"] == 2
            assert progress["message"] == f"{progress['stage'].lower()} {progress['done']}"
            assert abs(time.time() - progress["updated_at"]) < 2
        return status["state"] == "succeeded"

    until(finished, 20)
    assert list(seen) == ["VALIDATING", "PROCESSING", "UPLOADING"]
    assert seen["PROCESSING"] == {1, 2}
    assert service.result(job) == "uploaded"


def test_events_tell_states_and_progress_and_end_with_the_job(service: Service) -> None:
    heard = list(events(service, service.submit("steps", {"seconds": 0.3}, delay=1)))
    states = [data["state"] for name, data in heard if name == "state"]
    assert states[0] in ("scheduled", "queued")
    assert states[-2:] == ["running", "succeeded"]
    stages = [data["stage"] for name, data in heard if name == "progress"]
    assert list(dict.fromkeys(stages)) == ["VALIDATING", "PROCESSING", "UPLOADING"]
    assert heard[-1][0] == "state"


def test_events_of_a_finished_job_are_its_final_state(service: Service) -> None:
    job = service.submit("noop")
    service.wait(job)
    assert [(name, data["state"]) for name, data in events(service, job) if name == "state"] == [("state", "succeeded")]


def test_a_listener_that_leaves_disturbs_nobody(service: Service) -> None:
    job = service.submit("steps", {"seconds": 0.2})
    with service.http.stream("GET", f"/api/v1/jobs/{job}/events") as stream:
        next(stream.iter_lines())
    service.wait(job)


def test_a_job_that_waits_for_its_next_attempt_says_until_when(service: Service) -> None:
    job = service.submit("told_to_wait", {"label": str(uuid4()), "seconds": 3})
    status = service.wait(job, "retrying")
    assert 1 < status["due_at"] - time.time() <= 3.1
    assert status["attempts"] == 1
    assert "429" in status["error"]
    assert service.wait(job)["attempts"] == 2


def test_the_command_line_shows_the_same_status(service: Service) -> None:
    job = service.submit("noop")
    service.wait(job)
    assert service.cli_json("status", job) == service.status(job)
    text = service.cli("status", job)
    assert job in text
    assert "succeeded" in text


def test_run_waits_and_prints_the_result(service: Service) -> None:
    assert json.loads(service.cli("run", "steps", "--data", '{"seconds": 0}', "--wait", "--json")) is not None
    assert "uploaded" in service.cli("run", "steps", "--data", '{"seconds": 0.1}', "--wait")
    assert "card expired" in service.cli("run", "permanent", "--data", '{"label": "cli"}', "--wait", code=1)


@pytest.fixture(scope="module")
def idle(installed: Installed) -> Iterator[Service]:
    """A service whose worker the tests start when they want it."""
    with running(installed, workers=0) as service:
        yield service


def cancel(service: Service, job: str) -> httpx.Response:
    answer = service.http.delete(f"/api/v1/jobs/{job}")
    assert answer.status_code == 202
    assert answer.json()["id"] == job
    return answer


def test_a_queued_or_scheduled_job_can_be_cancelled_and_never_runs(idle: Service) -> None:
    queued = idle.submit("mark", {"label": "cancelled"})
    scheduled = idle.submit("mark", {"label": "cancelled"}, delay=3)
    by_cli = idle.submit("mark", {"label": "cancelled"})
    last = idle.submit("mark", {"label": "last"}, delay=4)
    assert cancel(idle, queued).json()["state"] == "cancelled"
    assert cancel(idle, scheduled).json()["state"] == "cancelled"
    idle.cli("cancel", by_cli)
    worker = idle.start_worker()
    idle.wait(last)
    assert {idle.status(job)["state"] for job in (queued, scheduled, by_cli)} == {"cancelled"}
    assert idle.effects(label="cancelled") == []
    assert idle.queue("default")["depth"] == 0
    worker.kill_group()


def test_a_cancelled_job_frees_its_idempotency_key(idle: Service) -> None:
    key = str(uuid4())
    first = idle.submit("mark", {"label": key}, key=key, delay=60)
    cancel(idle, first)
    assert idle.submit("mark", {"label": key}, key=key, delay=60) != first


def test_a_running_job_can_be_cancelled_and_the_worker_goes_on(service: Service) -> None:
    label = str(uuid4())
    job = service.submit("mark", {"label": label, "seconds": 60})
    service.wait(job, "running")
    service.told(label)
    cancel(service, job)
    service.wait(job, "cancelled", within=15)
    service.wait(service.submit("noop"))
    assert len(service.effects(label=label)) == 1
    assert not service.status(job)["dead_letter"]


def test_cancelling_a_finished_job_changes_nothing(service: Service) -> None:
    job = service.submit("noop")
    service.wait(job)
    assert cancel(service, job).json()["state"] == "succeeded"
    assert service.status(job)["state"] == "succeeded"


def test_a_running_job_without_a_sign_of_life_is_shown_as_stalled(installed: Installed) -> None:
    with running(installed, lease=6, renewal=2) as service:
        job = service.submit("mark", {"label": "slow", "seconds": 8})
        service.wait(job, "running")
        until(lambda: time.time() - service.status(job)["started_at"] > 7, 10)
        assert not service.status(job)["stalled"], "slow is not stalled"
        service.wait(job)
        [worker] = service.workers
        job = service.submit("mark", {"label": "frozen", "seconds": 30})
        service.told("frozen")
        worker.freeze()
        until(lambda: service.status(job)["stalled"], 15)
        worker.thaw()
