"""Sagas of ARQ that are stopped in the middle."""

from uuid import uuid4

import pytest

from ..contract.processes import until
from ..contract.service import FINAL, Service


def build(service: Service, how: str) -> tuple[str, list[str]]:
    label = str(uuid4())
    builder = service.submit("builds_saga", {"how": how, "label": label})
    service.wait(builder)
    return label, service.result(builder)


def undone(service: Service, label: str) -> list[int]:
    """The steps that were undone, in that order."""
    found = sorted((effect["at"], n) for n in range(3) for effect in service.effects(label=f"{label}-undo-{n}"))
    return [number for _, number in found]


def states(service: Service, jobs: list[str]) -> list[str]:
    return [service.status(job)["state"] for job in jobs]


def test_a_step_that_failed_is_undone_too_since_it_may_have_had_its_effect(service: Service) -> None:
    label, steps = build(service, "fails")
    until(lambda: undone(service, label) == [1, 0], 20, lambda: (undone(service, label), states(service, steps)))
    assert states(service, steps) == ["succeeded", "failed", "failed"]


@pytest.mark.parametrize("which", [1, 2], ids=["the running step", "the last step"])
def test_a_chain_is_cancelled_at_the_step_that_runs_though_that_one_succeeds(service: Service, which: int) -> None:
    label, steps = build(service, "deaf")
    service.told(f"{label}-1")
    service.http.delete(f"/api/v1/jobs/{steps[which]}").raise_for_status()
    until(lambda: all(state in FINAL for state in states(service, steps)), 30, lambda: states(service, steps))
    assert states(service, steps)[:2] == ["succeeded", "cancelled"]
    assert states(service, steps)[2] == ("failed" if which == 1 else "cancelled")
    until(lambda: undone(service, label) == [1, 0], 20, lambda: undone(service, label))
    assert not service.effects(label=f"{label}-2")
