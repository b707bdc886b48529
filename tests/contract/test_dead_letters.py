"""A job that a person must look at is kept whole, can be replayed or discarded, and stops neither worker nor queue."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from uuid import uuid4

import httpx
import pytest

from .installed import Installed
from .processes import until
from .service import Service, running


def failed(service: Service, job: str, within: float = 30) -> dict[str, Any]:
    """The dead letter of a job that failed."""
    status = service.wait(job, "failed", within=within)
    assert status["dead_letter"]
    letter = service.get(f"/dead-letters/{job}")
    assert letter["id"] == job
    assert letter["job"] == status["name"]
    assert letter["queue"] == status["queue"]
    assert status["submitted_at"] <= letter["failed_at"]
    assert letter["error"] == status["error"]
    return letter


def test_an_exhausted_job_is_kept_with_payload_error_traceback_and_attempts(service: Service) -> None:
    payload = {"label": str(uuid4()), "times": 99}
    letter = failed(service, service.submit("flaky", payload))
    assert (letter["reason"], letter["attempts"], letter["payload"]) == ("exhausted", 4, payload)
    assert "no answer" in letter["error"]
    assert "in flaky" in letter["traceback"]
    assert letter["trace_id"]


def test_a_permanent_failure_is_kept(service: Service) -> None:
    letter = failed(service, service.submit("permanent", {"label": "dead"}, key=str(uuid4())))
    assert (letter["reason"], letter["attempts"]) == ("permanent", 1)
    assert letter["idempotency_key"]


def test_a_bug_is_kept_with_its_place(service: Service) -> None:
    letter = failed(service, service.submit("unexpected", {"label": "dead"}))
    assert letter["reason"] == "unexpected"
    assert "ZeroDivisionError" in letter["traceback"]


def test_a_result_that_cannot_be_stored_is_a_failure_not_a_silence(service: Service) -> None:
    letter = failed(service, service.submit("unserialisable"))
    assert letter["reason"] in ("permanent", "unexpected")


@pytest.mark.parametrize("deaf", [False, True], ids=["soft limit", "hard limit"])
def test_a_job_over_its_time_limit_is_stopped_and_kept(service: Service, deaf: bool) -> None:
    label = str(uuid4())
    letter = failed(service, service.submit("overrun", {"label": label, "deaf": deaf}))
    assert letter["reason"] == "timed out"
    assert letter["payload"]["label"] == label
    assert len(service.effects(label=label)) == 1
    service.wait(service.submit("noop"))


def test_a_job_that_kills_its_process_is_stopped_after_three_deliveries(service: Service) -> None:
    label = str(uuid4())
    letter = failed(service, service.submit("poison", {"label": label}), within=60)
    assert letter["reason"] == "poison"
    assert len(service.effects(label=label)) == 3
    service.wait(service.submit("noop"))


def test_a_job_that_kills_its_worker_is_stopped_after_three_deliveries(installed: Installed) -> None:
    """With a shorter lease, so that the test need not wait for three of them; a supervisor starts the worker anew."""
    with running(installed, workers=0, lease=3, renewal=1) as service, service.supervised_worker():
        job = service.submit("poison_worker", {"label": "poison"})
        assert failed(service, job, within=60)["reason"] == "poison"
        assert len(service.effects(label="poison")) == 3
        service.wait(service.submit("noop"))


@pytest.mark.parametrize(
    ("kind", "reason"), [("pickled", "undecodable"), ("truncated", "undecodable"), ("unknown", "unknown job")]
)
def test_a_message_that_no_client_sends_becomes_a_dead_letter(service: Service, kind: str, reason: str) -> None:
    job = f"no_such_job_{uuid4().hex}" if kind == "unknown" else "noop"
    known = {letter["id"] for letter in service.dead_letters(reason=reason)}
    service.inject(kind, queue="critical", job=job)

    def arrived() -> list[dict[str, Any]]:
        return [letter for letter in service.dead_letters(reason=reason) if letter["id"] not in known]

    [letter] = until(arrived, 10, f"a dead letter for the {kind} message")
    assert letter["queue"] == "critical"
    whole = service.get(f"/dead-letters/{letter['id']}")
    assert whole["error"]
    if kind == "unknown":
        assert whole["job"] == job
    else:
        assert not whole["replayable"]
        assert not (service.folder / "unpickled").exists()
        assert service.http.post(f"/api/v1/dead-letters/{letter['id']}/replay").status_code == 409
    service.wait(service.submit("noop", queue="critical"))
    until(lambda: service.queue("critical")["depth"] == 0, 5)
    assert service.http.delete(f"/api/v1/dead-letters/{letter['id']}").status_code == 204


def test_dead_letters_are_listed_newest_first_and_filtered(service: Service) -> None:
    first = service.submit("permanent", {"label": "first"}, queue="bulk")
    service.wait(first, "failed")
    second = service.submit("unexpected", {"label": "second"})
    service.wait(second, "failed")
    listed = [letter["id"] for letter in service.dead_letters()]
    assert listed.index(second) < listed.index(first)
    assert [letter["id"] for letter in service.dead_letters(limit=1)] == [second]
    for filters, wanted, unwanted in (
        ({"job": "permanent"}, first, second),
        ({"queue": "bulk"}, first, second),
        ({"reason": "unexpected"}, second, first),
        ({"job": "permanent", "queue": "bulk", "reason": "permanent"}, first, second),
    ):
        found = [letter["id"] for letter in service.dead_letters(**filters)]
        assert wanted in found
        assert unwanted not in found
    assert service.dead_letters(job="permanent", queue="critical") == []
    assert service.queue("bulk")["dead_letters"] >= 1
    options = ["--job", "permanent", "--queue", "bulk"]
    assert first in [letter["id"] for letter in service.cli_json("dead-letters", "list", *options)]


def test_a_replay_runs_the_job_again_and_replaying_twice_runs_it_once(service: Service) -> None:
    label = str(uuid4())
    dead = service.submit("permanent", {"label": label})
    service.wait(dead, "failed")
    answer = service.http.post(f"/api/v1/dead-letters/{dead}/replay")
    assert answer.status_code == 202
    new = answer.json()["id"]
    assert new != dead
    again = service.http.post(f"/api/v1/dead-letters/{dead}/replay")
    assert (again.status_code, again.json()["id"], again.json()["created"]) == (200, new, False)
    assert service.cli_json("dead-letters", "replay", dead)
    assert service.wait(new, "failed")["replay_of"] == dead
    assert service.status(dead)["replayed_as"] == new
    assert len(service.effects(label=label)) == 2


def test_replays_at_the_same_moment_run_it_once(service: Service) -> None:
    label = str(uuid4())
    dead = service.submit("permanent", {"label": label})
    service.wait(dead, "failed")
    start = Barrier(8)

    def replay(_: int) -> httpx.Response:
        service.http.get("/health/live")  # the connection is there
        start.wait()
        return service.http.post(f"/api/v1/dead-letters/{dead}/replay")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(replay, range(8)))
    assert {answer.status_code for answer in answers} <= {200, 202}, [answer.text for answer in answers]
    [new] = {answer.json()["id"] for answer in answers}
    service.wait(new, "failed")
    assert len(service.effects(label=label)) == 2


@pytest.fixture
def declined(service: Service) -> Iterator[Callable[[], tuple[str, str]]]:
    """An order that failed for good, since the gateway declined its card; mended afterwards."""

    def submit() -> tuple[str, str]:
        order = str(uuid4())
        trouble = {"status": 402, "path": "/charges", "order_id": order}
        service.gateway.post("/control", json={"fail": [trouble]}).raise_for_status()
        job = service.submit("process_order", {"order_id": order, "amount_cents": 100})
        service.wait(job, "failed")
        return order, job

    yield submit
    service.gateway.delete("/control").raise_for_status()


def test_a_mended_job_replayed_under_its_key_has_its_effect_once(service: Service, declined: Callable[[], Any]) -> None:
    order, dead = declined()
    new = service.http.post(f"/api/v1/dead-letters/{dead}/replay").json()["id"]
    assert service.wait(new)["idempotency_key"] == order
    [charge] = service.charges(order_id=order)
    assert service.result(new)["charge_id"] == charge["id"]
    again = service.post("process_order", {"order_id": order, "amount_cents": 100})
    assert (again.status_code, again.json()["id"]) == (200, new), "the key now belongs to the job that succeeded"


def test_a_discarded_dead_letter_is_gone_and_frees_its_key(service: Service, declined: Callable[[], Any]) -> None:
    order, dead = declined()
    assert service.post("process_order", {"order_id": order, "amount_cents": 100}).json()["id"] == dead
    assert service.http.delete(f"/api/v1/dead-letters/{dead}").status_code == 204
    service.get(f"/dead-letters/{dead}", status=404)
    assert service.http.delete(f"/api/v1/dead-letters/{dead}").status_code == 404
    assert service.http.post(f"/api/v1/dead-letters/{dead}/replay").status_code == 404
    assert dead not in [letter["id"] for letter in service.dead_letters()]
    new = service.submit("process_order", {"order_id": order, "amount_cents": 100})
    assert service.wait(new)["attempts"] == 1


def test_many_are_replayed_or_discarded_by_filter_from_the_command_line(service: Service) -> None:
    label = str(uuid4())
    jobs = [service.submit("permanent", {"label": label}, queue="critical") for _ in range(3)]
    for job in jobs:
        service.wait(job, "failed")
    here = ["--job", "permanent", "--queue", "critical"]
    service.cli("dead-letters", "replay", "--all", *here)
    service.told(label, 6)

    def dead() -> list[str]:
        return [letter["id"] for letter in service.dead_letters(job="permanent", queue="critical")]

    until(lambda: len(dead()) == 3, 10, dead)
    assert not set(dead()) & set(jobs), "these are the replays; the originals have been dealt with"
    assert label in service.cli("dead-letters", "show", dead()[0])
    service.cli("dead-letters", "discard", "--all", *here)
    assert dead() == []
    assert service.queue("critical")["depth"] == 0
