"""Ids, keys, names and results that look like our own keys in Redis are harmless, and so are messages of others."""

import base64
import json
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from ..contract.processes import until
from ..contract.service import Service
from ..contract.valkey import ask


@pytest.mark.parametrize("like", ["{}:lease", "queues", "{}|", "a b", "\x00", "{}:lease:lease"])
def test_an_id_that_looks_like_a_key_is_unknown(service: Service, like: str) -> None:
    job = service.submit("mark", {"label": str(uuid4()), "seconds": 2})
    service.wait(job, "running")
    strange = quote(like.format(job), safe="")
    for method, path in (
        ("GET", f"/jobs/{strange}"),
        ("GET", f"/jobs/{strange}/result"),
        ("DELETE", f"/jobs/{strange}"),
        ("GET", f"/dead-letters/{strange}"),
        ("POST", f"/dead-letters/{strange}/replay"),
        ("DELETE", f"/dead-letters/{strange}"),
    ):
        assert service.http.request(method, f"/api/v1{path}").status_code == 404, (method, path)
    assert service.wait(job)["attempts"] == 1


@pytest.mark.parametrize("key", ["a|b", "queues", "x:lease", "|", ":", "a:b|c", '{"$ref": "x"}'])
def test_any_key_means_one_job(service: Service, key: str) -> None:
    first = service.post("noop", key=key)
    second = service.post("noop", key=key)
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json()["id"] == second.json()["id"]
    assert service.wait(first.json()["id"])["idempotency_key"] == key
    other = service.post("mark", {"label": "another job"}, key=key)
    assert other.status_code == 202


def test_a_result_that_names_anothers_result_is_its_own(service: Service) -> None:
    secret = service.submit("big", {"size": 200_000})
    service.wait(secret)
    for named in (secret, "unknown"):
        value = {"$ref": named, "bytes": 200_002}
        job = service.submit("echoes", {"value": value})
        service.wait(job)
        assert service.result(job) == value


KOMBU = [
    {"__type__": kind, "__value__": "1.5"} for kind in ("uuid", "datetime", "bytes", "decimal", "literal", "other")
]
ENCODED = [*KOMBU, {"__type__": ["x"], "__value__": {"__type__": "bytes", "__value__": "x"}}, [{"in": KOMBU[:2]}]]


@pytest.mark.parametrize("value", ENCODED)
def test_a_payload_that_looks_like_an_encoded_object_comes_back_as_it_is(service: Service, value: object) -> None:
    job = service.submit("echoes", {"value": value})
    service.wait(job)
    assert service.result(job) == value


STRANGE: dict[str, dict[str, Any]] = {
    "an id like a lease": {"headers": {"id": "x:lease"}},
    "an id like our hash": {"headers": {"id": "queues"}},
    "an id that is a number": {"headers": {"id": 7}},
    "an id that is a list": {"headers": {"id": ["x"]}},
    "a name that is a list": {"headers": {"task": ["noop"]}},
    "a name that is null": {"headers": {"task": None}},
    "a body that is no base64": {"body": "%%%"},
    "a body with an unknown encoding": {"properties": {"body_encoding": "rot13"}},
    "a body that is a number": {"body": 7},
    "no body": {"body": None},
    "an eta that is no time": {"headers": {"eta": "tomorrow"}},
    "retries that are text": {"headers": {"retries": "many"}},
    "an envelope that is text": {"headers": {"job": "text"}},
    "a time limit that is text": {"headers": {"timelimit": "never"}},
    "no arguments": {"body": base64.b64encode(b"[]").decode()},
}


@pytest.mark.parametrize("kind", STRANGE)
def test_a_strange_message_is_a_dead_letter_and_the_worker_goes_on(service: Service, kind: str) -> None:
    job, known = str(uuid4()), {letter["id"] for letter in service.dead_letters()}
    body = base64.b64encode(json.dumps([[], {}, {}]).encode()).decode()
    message: dict[str, Any] = {
        "body": body,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": "noop", "id": job, "root_id": job, "parent_id": None, "group": None},
        "properties": {
            "correlation_id": job,
            "delivery_mode": 2,
            "delivery_tag": job,
            "body_encoding": "base64",
            "priority": 0,
            "delivery_info": {"exchange": "", "routing_key": "default"},
        },
    }
    for part, changed in STRANGE[kind].items():
        message[part] = {**message[part], **changed} if isinstance(changed, dict) else changed
    [worker] = service.workers
    ask(service, "LPUSH", "default", json.dumps(message))
    until(lambda: [letter for letter in service.dead_letters() if letter["id"] not in known], 20, kind)
    service.wait(service.submit("noop"), within=20)
    assert worker.returncode is None
