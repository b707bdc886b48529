"""One key, one effect: whoever submits it how often, and whatever dies in the middle."""

import json
from uuid import uuid4

from .installed import Installed
from .service import Service, running


def test_three_submissions_of_one_key_have_one_effect(service: Service) -> None:
    key = str(uuid4())
    payload = {"key": key}
    jobs = [
        service.submit("effect", payload, key=key),
        service.post("effect", payload, key=key).json()["id"],
        service.cli_json("run", "effect", "--data", json.dumps(payload), "--key", key)["id"],
    ]
    assert len(set(jobs)) == 1
    service.wait(jobs[0])
    [charge] = service.charges(order_id=key)
    assert charge["requests"] == 1


def test_a_job_that_derives_its_key_needs_none_from_the_caller(service: Service) -> None:
    payload = {"key": str(uuid4())}
    first = service.submit("effect", payload)
    again = service.post("effect", payload)
    assert (again.status_code, again.json()["id"]) == (200, first)
    assert service.wait(first)["idempotency_key"] == payload["key"]


def test_the_key_reaches_the_vendor(service: Service) -> None:
    key = str(uuid4())
    service.wait(service.submit("effect", {"key": "vendor " + key}, key=key))
    [charge] = service.charges(order_id="vendor " + key)
    assert charge["key"] == key


def test_the_example_order_is_charged_once_although_the_answer_was_lost(service: Service) -> None:
    order = str(uuid4())
    trouble = {"status": 503, "path": "/charges", "order_id": order, "after_effect": True}
    service.gateway.post("/control", json={"fail": [trouble]}).raise_for_status()
    job = service.submit("process_order", {"order_id": order, "amount_cents": 4200})
    assert service.wait(job)["attempts"] == 2
    [charge] = service.charges(order_id=order)
    assert charge["requests"] == 2
    assert service.result(job)["charge_id"] == charge["id"]


def test_a_crash_in_the_middle_leaves_one_effect(installed: Installed) -> None:
    """Before, and after, the effect: the second worker must run the job again, and must not charge again."""
    with running(installed, lease=6, renewal=2) as service:
        before = service.submit("effect", {"key": "before", "seconds": 3})
        after = service.submit("effect", {"key": "after", "after": 3})
        service.told("start before")
        service.told("start after")
        [worker] = service.workers
        while not service.charges(order_id="after"):
            assert worker.returncode is None
        worker.kill_group()
        assert service.charges(order_id="before") == []
        again = service.post("effect", {"key": "after", "after": 3})
        assert (again.status_code, again.json()["id"]) == (200, after), "the key is still held by the job that died"
        service.start_worker()
        for job, requests in ((before, 1), (after, 2)):
            assert service.wait(job)["attempts"] == 2
            [charge] = service.charges(order_id=service.result(job))
            assert charge["requests"] == requests
