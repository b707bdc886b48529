"""A cancelled workflow ends with the parts that run, whatever those do next: they are undone, nothing later begins."""

import subprocess
from uuid import uuid4

import pytest

from ..contract.processes import until
from ..contract.service import Service

CONSTRUCTS = {
    "steps": ["first"],
    "attempts": ["first"],
    "swallowed": ["first"],
    "gathered": ["first 1", "first 2"],
    "in_tasks": ["first"],
    "nested": ["zeroth", "first"],
    "child": ["first"],
    "plain_child": ["first"],
    "plain_activity": ["first"],
}
THENS = ["heeds it", "succeeds", "fails", "fails for now", "snoozes"]
SELECTED = {("steps", "heeds it"), ("steps", "fails"), ("attempts", "fails for now"), ("nested", "snoozes")}


def parts(service: Service, label: str, what: str) -> list[str]:
    return [effect["part"] for effect in service.effects(label=f"{label} {what}")]


def go(service: Service, label: str, then: str) -> None:
    """Let the first parts end, at once after the cancel: no heartbeat has told them of it, or the last just did."""
    if then != "heeds it":
        service.gateway.post("/effects", json={"label": f"{label} go"}).raise_for_status()


def cases() -> list[object]:
    chosen = SELECTED | {(construct, "succeeds") for construct in CONSTRUCTS}
    return [
        pytest.param(construct, then, marks=[] if (construct, then) in chosen else [pytest.mark.thorough])
        for construct in CONSTRUCTS
        for then in THENS
    ]


def begin(service: Service, construct: str, then: str, **more: object) -> tuple[str, str]:
    """The label and the id of a workflow whose first parts run."""
    label = uuid4().hex
    job = service.submit("cancelled", {"label": label, "shape": construct, "then": then, **more})
    wanted = set(CONSTRUCTS[construct])
    until(lambda: set(parts(service, label, "begin")) == wanted, 20, lambda: service.effects(label=f"{label} begin"))
    return label, job


@pytest.mark.parametrize(("construct", "then"), cases())
def test_what_was_begun_is_undone_and_nothing_later_begins(service: Service, construct: str, then: str) -> None:
    label, job = begin(service, construct, then)
    assert service.http.delete(f"/api/v1/jobs/{job}").status_code in (200, 202)
    go(service, label, then)
    service.wait(job, "cancelled", within=40)
    begun = CONSTRUCTS[construct]
    assert sorted(parts(service, label, "begin")) == sorted(begun)
    assert parts(service, label, "undo") == begun[::-1]
    assert job not in [letter["id"] for letter in service.dead_letters()]


@pytest.mark.parametrize("then", ["succeeds", "fails"])
def test_temporals_own_command_cancels_as_well(service: Service, then: str) -> None:
    label, job = begin(service, "steps", then)
    address = service.environment[service.installed.stack.broker_variable]
    tool = service.environment["TEMPORAL_CLI"]
    subprocess.run(
        [tool, "workflow", "cancel", "--workflow-id", job, "--address", address], check=True, capture_output=True
    )
    go(service, label, then)
    service.wait(job, "cancelled", within=40)
    assert (parts(service, label, "begin"), parts(service, label, "undo")) == (["first"], ["first"])


@pytest.mark.parametrize("then", ["heeds it", "succeeds", "fails"])
def test_a_part_that_fails_ends_those_beside_it_before_anything_is_undone(service: Service, then: str) -> None:
    label = uuid4().hex
    job = service.submit("part_fails", {"label": label, "shape": "", "then": then, "fails": True})
    until(lambda: len(parts(service, label, "begin")) == 2, 20)
    service.wait(job, "failed")
    assert service.http.delete(f"/api/v1/dead-letters/{job}").is_success
    service.wait(job, "failed", within=40)
    until(lambda: len(parts(service, label, "undo")) == 2, 40, lambda: service.effects())
    assert sorted(parts(service, label, "begin")) == ["first", "first 2"]
    ended = [effect["at"] for effect in service.effects(label=f"{label} end")]
    undone = [effect["at"] for effect in service.effects(label=f"{label} undo")]
    assert max(ended) <= min(undone), "it was undone while it ran"
