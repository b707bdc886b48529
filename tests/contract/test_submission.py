"""What a caller hears when it submits a job, and that a refused submission leaves nothing behind."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from .installed import Installed
from .processes import until, within
from .service import Service, running


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The RFC 9457 document that an error must be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    assert "type" in document
    return document


def test_a_submitted_job_is_accepted_with_its_address(service: Service) -> None:
    answer = service.post("noop")
    assert answer.status_code == 202
    body = answer.json()
    assert body["created"] is True
    assert answer.headers["location"] == f"/api/v1/jobs/{body['id']}"
    assert service.http.get(answer.headers["location"]).json()["name"] == "noop"
    assert service.wait(body["id"])["attempts"] == 1


def test_the_job_types_are_listed_with_their_payload_schema(service: Service) -> None:
    types = {entry["name"]: entry for entry in service.get("/jobs")}
    assert types["effect"]["queue"] == "default"
    assert types["effect"]["description"].startswith("Work, charge once")
    assert set(types["effect"]["payload_schema"]["properties"]) == {"key", "seconds", "after"}
    assert {"process_order", "generate_report", "import_catalog", "rebuild_index"} <= set(types)


def test_the_same_key_and_payload_answer_the_first_job(service: Service) -> None:
    key = str(uuid4())
    first = service.submit("mark", {"label": key}, key=key)
    again = service.post("mark", {"label": key}, key=key)
    assert again.status_code == 200
    assert again.json()["id"] == first
    assert again.json()["created"] is False
    service.wait(first)
    assert service.post("mark", {"label": key}, key=key).json()["id"] == first, "also after it has finished"
    assert len(service.effects(label=key)) == 1


def test_the_same_key_with_another_payload_is_a_conflict(service: Service) -> None:
    key = str(uuid4())
    first = service.submit("mark", {"label": key}, key=key)
    document = problem(service.post("mark", {"label": "other"}, key=key), 409)
    assert key in str(document["detail"])
    service.wait(first)


def test_a_key_belongs_to_one_kind_of_job(service: Service) -> None:
    key = str(uuid4())
    first = service.submit("mark", {"label": key}, key=key)
    assert service.submit("noop", key=key) != first


def test_of_many_callers_with_one_key_exactly_one_creates_the_job(service: Service) -> None:
    key = str(uuid4())
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: service.post("mark", {"label": key}, key=key), range(24)))
    assert sorted(answer.status_code for answer in answers) == [200] * 23 + [202]
    [job] = {answer.json()["id"] for answer in answers}
    service.wait(job)
    assert len(service.effects(label=key)) == 1


def test_an_unknown_job_is_not_found(service: Service) -> None:
    assert "no_such_job" in str(problem(service.post("no_such_job"), 404)["detail"])
    problem(service.http.get("/api/v1/jobs/no-such-id"), 404)
    problem(service.http.get("/api/v1/jobs/no-such-id/result"), 404)
    problem(service.http.get("/api/v1/jobs/no-such-id/events"), 404)
    problem(service.http.delete("/api/v1/jobs/no-such-id"), 404)


@pytest.mark.parametrize(
    ("payload", "field"),
    [({}, "label"), ({"label": "x", "seconds": "soon"}, "seconds"), ({"label": None}, "label"), ([1, 2], "")],
    ids=["missing", "wrong type", "null", "no object"],
)
def test_a_bad_payload_is_refused_with_the_field_named(service: Service, payload: object, field: str) -> None:
    document = problem(service.http.post("/api/v1/jobs/mark", json=payload), 422)
    errors = document["errors"]
    assert isinstance(errors, list)
    assert errors
    assert field in json.dumps(errors)


def test_a_misspelt_field_is_refused_rather_than_ignored(service: Service) -> None:
    document = problem(service.post("mark", {"label": "x", "secnds": 1}), 422)
    assert "secnds" in json.dumps(document["errors"])


def test_an_unknown_queue_is_refused(service: Service) -> None:
    assert "express" in str(problem(service.post("noop", queue="express"), 422)["detail"])


@pytest.mark.parametrize("option", ["priority=10", "priority=-1", "priority=most", "delay=-1", "delay=soon"])
def test_a_bad_option_is_refused(service: Service, option: str) -> None:
    problem(service.http.post(f"/api/v1/jobs/noop?{option}", json={}), 422)


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b'{"label": NaN}'], ids=["cut off", "binary", "NaN"])
def test_a_body_that_is_not_json_is_refused(service: Service, body: bytes) -> None:
    problem(service.http.post("/api/v1/jobs/mark", content=body, headers={"Content-Type": "application/json"}), 400)


def test_an_oversized_body_is_refused_before_it_is_read(service: Service) -> None:
    problem(service.http.post("/api/v1/jobs/mark", json={"label": "x" * 1_100_000}), 413)


def test_an_oversized_body_without_a_length_is_refused(service: Service) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"label": "'
        for _ in range(110):
            yield b"x" * 10_000
        yield b'"}'

    problem(service.http.post("/api/v1/jobs/mark", content=chunks()), 413)


def test_a_refused_submission_does_not_use_up_its_key(service: Service) -> None:
    key = str(uuid4())
    problem(service.post("mark", {"label": 1}, key=key), 422)
    problem(service.post("mark", {"label": key}, key=key, queue="express"), 422)
    service.wait(service.submit("mark", {"label": key}, key=key))


def test_an_absurdly_long_key_is_refused(service: Service) -> None:
    problem(service.post("noop", key="k" * 5000), 422)


def test_queue_and_priority_of_a_submission_are_kept(service: Service) -> None:
    status = service.status(service.submit("noop", queue="bulk", priority=7))
    assert (status["queue"], status["priority"]) == ("bulk", 7)


def test_a_delayed_job_is_scheduled_and_starts_when_due(service: Service) -> None:
    label, before = str(uuid4()), time.time()
    job = service.submit("mark", {"label": label}, delay=2)
    status = service.status(job)
    assert status["state"] == "scheduled"
    assert before + 2 <= status["due_at"] <= time.time() + 2
    service.wait(job)
    [told] = service.effects(label=label)
    assert status["due_at"] - 0.1 <= told["at"] <= status["due_at"] + 2


def unavailable(service: Service, key: str) -> None:
    """A submission is refused as the contract says, and in time."""
    with within(3):
        answer = service.post("mark", {"label": key}, key=key)
    problem(answer, 503)
    assert int(answer.headers["retry-after"]) > 0


def test_without_a_broker_nothing_is_half_done(installed: Installed) -> None:
    with running(installed, workers=0) as service:
        key = str(uuid4())
        service.broker.kill_group()
        unavailable(service, key)
        for path in ("/jobs/some-id", "/queues", "/dead-letters"):
            with within(3):
                problem(service.http.get(f"/api/v1{path}"), 503)
        assert "broker" in service.cli("run", "noop", code=3).lower()
        service.start_broker()
        job = service.submit("mark", {"label": key}, key=key)
        assert service.queue("default")["depth"] == 1
        service.start_worker()
        service.wait(job)
        assert len(service.effects(label=key)) == 1


def test_a_frozen_broker_is_told_in_time_and_nothing_is_half_done(installed: Installed) -> None:
    with running(installed) as service:
        service.wait(service.submit("noop"))  # its connections are open
        keys = [str(uuid4()) for _ in range(3)]
        service.broker.freeze()
        try:
            for key in keys:
                unavailable(service, key)
            with within(3):
                assert service.http.get("/health/ready").status_code == 503
        finally:
            service.broker.thaw()
        until(lambda: service.http.get("/health/ready").status_code == 200, 5)
        for key in keys:
            answer = service.post("mark", {"label": key}, key=key)
            assert answer.status_code in (200, 202)
            service.wait(answer.json()["id"])
            assert len(service.effects(label=key)) == 1
