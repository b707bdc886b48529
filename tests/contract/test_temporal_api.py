"""A person decides what a workflow waits for, over HTTP: once, by name, and only who may.

Collected with `--stack temporal` (conftest.py).
"""

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

YES, NO = {"approved": True}, {"approved": False, "comment": "no credit"}
LARGE = 100_001  # cents; from here on an order waits for consent


@pytest.fixture(scope="module")
def guarded(installed: Installed) -> Iterator[Service]:
    with running(installed, api_tokens="plain-secret", approver_tokens="ann:her-secret,bob:his-secret") as service:
        yield service


def decide(service: Service, job: str, verdict: object, token: str = "", **options: Any) -> httpx.Response:
    """One decision, whatever comes of it; with another token than the service's own client has."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    given: dict[str, Any] = {"json": verdict, "headers": headers, **options}
    return service.http.post(f"/api/v1/jobs/{job}/decision", **given)


def waiting(service: Service, job: str) -> list[dict[str, Any]]:
    """The entry of this job, if there is one."""
    return [approval for approval in service.get("/approvals", limit=1000) if approval["id"] == job]


def asking(service: Service, job: str = "consent", payload: object = None) -> str:
    """A job that waits for a decision."""
    job = service.submit(job, payload or {"seconds": 600})
    until(lambda: waiting(service, job), 10, lambda: service.status(job))
    return job


def refused(answer: httpx.Response, status: int) -> str:
    """What a problem document says."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.json()["detail"]


def test_a_large_order_that_is_approved_is_fulfilled(service: Service) -> None:
    order = {"order_id": uuid4().hex, "amount_cents": LARGE}
    before = time.time()
    job = asking(service, "fulfil_order", order)
    [approval] = waiting(service, job)
    assert (approval["name"], approval["queue"], approval["waiting_for"]) == ("fulfil_order", "default", "approve")
    assert before - 1 <= approval["since"] <= time.time() + 1
    assert "payload" not in approval
    whole = service.get(f"/approvals/{job}")
    assert whole.pop("payload").items() >= order.items()
    assert {**approval, "id": job} == whole
    assert service.charges(order_id=order["order_id"]) == []
    assert decide(service, job, YES).status_code == 204
    service.wait(job)
    assert service.result(job)["order_id"] == order["order_id"]
    until(lambda: not waiting(service, job), 5)


def test_a_large_order_that_is_refused_is_not_charged(service: Service) -> None:
    order = {"order_id": uuid4().hex, "amount_cents": LARGE}
    job = asking(service, "fulfil_order", order)
    assert decide(service, job, NO).status_code == 204
    service.wait(job)
    assert service.result(job)["why"].endswith("no credit")
    assert service.charges(order_id=order["order_id"]) == []


def test_what_waits_for_a_person_is_running_but_no_backlog(service: Service) -> None:
    until(lambda: service.queue("default")["depth"] == 0, 20, lambda: service.queue("default"))
    jobs = [asking(service) for _ in range(3)]
    assert service.queue("default")["depth"] == 0
    assert [approval["id"] for approval in service.get("/approvals", limit=1000) if approval["id"] in jobs] == jobs
    assert len(service.get("/approvals", limit=2)) == 2
    assert service.status(jobs[0])["state"] == "running"
    for job in jobs:
        assert service.http.delete(f"/api/v1/jobs/{job}").status_code == 202
        service.wait(job, "cancelled")
        assert "cancelled" in refused(decide(service, job, YES), 409)
    until(lambda: not any(waiting(service, job) for job in jobs), 5)
    assert not {letter["id"] for letter in service.dead_letters()} & {*jobs}


def test_of_many_decisions_at_the_same_moment_one_is_taken(service: Service) -> None:
    job = asking(service)
    with ThreadPoolExecutor(8) as threads:
        answers = [*threads.map(lambda number: decide(service, job, [YES, NO][number % 2]), range(8))]
    assert sorted(answer.status_code for answer in answers) == [204] + 7 * [409]
    service.wait(job)
    taken = next(number for number, answer in enumerate(answers) if answer.status_code == 204)
    assert service.result(job).split()[0] == ["approved", "refused"][taken % 2]


def test_a_job_that_waits_for_no_decision_takes_none(service: Service) -> None:
    ended = service.submit("noop")
    service.wait(ended)
    assert "waits for no decision" in refused(decide(service, ended, YES), 409)
    working = service.submit("sleeper", {"label": uuid4().hex, "seconds": 600})
    service.wait(working, "scheduled")
    assert "waits for no decision" in refused(decide(service, working, YES), 409)
    assert "waits for no decision" in refused(service.http.get(f"/api/v1/approvals/{working}"), 409)
    service.http.delete(f"/api/v1/jobs/{working}")
    parked = service.submit("permanent", {"label": uuid4().hex})
    service.wait(parked, "failed")
    refused(decide(service, parked, YES), 409)
    assert not waiting(service, parked)


def test_an_unknown_job_has_nothing_to_decide(service: Service) -> None:
    assert "no-such-job" in refused(decide(service, "no-such-job", YES), 404)
    refused(service.http.get("/api/v1/approvals/no-such-job"), 404)


@pytest.mark.parametrize(
    "body",
    [{}, [], {"approved": "yes"}, {"approved": 1}, {**YES, "by": "me"}, {**YES, "comment": 7}],
    ids=str,
)
def test_a_decision_is_a_clear_yes_or_no(service: Service, body: object) -> None:
    job = asking(service)
    answer = decide(service, job, body)
    refused(answer, 422)
    assert answer.json()["errors"][0]["loc"][0] == "body"
    refused(decide(service, job, None, json=None, content=b"{"), 400)
    refused(decide(service, job, {**YES, "comment": "x" * 2_000_000}), 413)
    assert decide(service, job, YES).status_code == 204


def test_only_approvers_decide_and_are_named(guarded: Service) -> None:
    job = asking(guarded)
    said = refused(decide(guarded, job, YES), 403)
    assert "APPROVER_TOKENS" in said
    assert "secret" not in said
    refused(decide(guarded, job, YES, "guessed-secret"), 401)
    refused(decide(guarded, job, YES, "ann:her-secret"), 401)
    assert decide(guarded, job, NO, "her-secret").status_code == 204
    guarded.wait(job)
    assert guarded.result(job) == "refused by ann"
    refused(decide(guarded, job, YES, "plain-secret"), 403)


def test_an_approver_may_use_the_rest_of_the_api(guarded: Service) -> None:
    headers = {"Authorization": "Bearer his-secret"}
    for path in ("/api/v1/approvals", "/api/v1/queues", "/metrics"):
        assert guarded.http.get(path, headers=headers).status_code == 200


def test_without_approver_tokens_every_caller_may_decide(installed: Installed) -> None:
    with running(installed, api_tokens="plain-secret") as service:
        job = asking(service)
        assert decide(service, job, YES).status_code == 204
        service.wait(job)
        assert service.result(job) == "approved by a caller of the API"


@pytest.mark.parametrize("tokens", ["secret", ":secret", "ann:", "ann:her-secret,secret"])
def test_an_approver_without_a_name_is_refused_at_the_start(service: Service, tokens: str) -> None:
    said = service.cli("api", "--port", "0", code=2, within=3, approver_tokens=tokens)
    assert "APPROVER_TOKENS" in said.upper()
    assert "name:token" in said
    assert "secret" not in said


def test_a_decision_needs_a_worker_and_says_so_in_time(installed: Installed) -> None:
    with running(installed) as service:
        job = asking(service)
        service.workers[0].stop()
        assert waiting(service, job), service.status(job)
        with within(3):
            answer = decide(service, job, YES)
        assert "no worker on queue default" in refused(answer, 503)
        assert answer.headers["retry-after"]
        service.start_worker()
        until(lambda: decide(service, job, YES).status_code in (204, 409), 20)
        service.wait(job)
        assert service.result(job).startswith("approved")


def test_a_decision_outlives_the_server_that_took_it(installed: Installed) -> None:
    order = {"order_id": uuid4().hex, "amount_cents": LARGE}
    with running(installed) as service:
        decided, undecided = asking(service, "fulfil_order", order), asking(service)
        assert decide(service, decided, YES).status_code == 204
        service.broker.kill_group()
        for asked in (
            lambda: decide(service, undecided, YES),
            lambda: service.http.get("/api/v1/approvals"),
            lambda: service.post("mark", {"label": "refused"}),
        ):
            with within(3):
                refused(asked(), 503)
        service.start_broker()
        until(lambda: service.http.get("/health/ready").is_success, 20)
        service.wait(decided, within=60)
        [charge] = service.charges(order_id=order["order_id"])
        assert charge["requests"] == 1
        until(lambda: waiting(service, undecided), 20, "it still asks")
        assert not waiting(service, decided)
        until(lambda: decide(service, undecided, YES).status_code == 204, 20)
        service.wait(undecided)
        assert service.result(undecided).startswith("approved")
        assert service.effects(label="refused") == [], "what was refused comes no later"
