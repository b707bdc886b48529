"""What runs beside something else ends, is undone and is told as if it were alone; who cancels himself fails once."""

import time
from uuid import uuid4

import pytest

from ..contract.processes import until
from ..contract.service import Service

UNDONE = {"undo a 0", "undo b 0", "undo b 1", "undo b 2", "undo b 3"}


def begin(service: Service, what: str) -> tuple[str, str]:
    label = uuid4().hex
    return label, service.submit("parallel", {"label": label, "what": what})


def told(service: Service, label: str, names: set[str]) -> bool:
    return all(len(service.effects(label=f"{label} {name}")) == 1 for name in names)


def test_a_parked_step_that_is_given_up_leaves_the_other_in_the_list(service: Service) -> None:
    label, job = begin(service, "one_of_two_gives_up")
    until(lambda: told(service, label, {"first", "second"}), 20)
    service.wait(job, "failed")
    parked_at = time.monotonic()
    until(lambda: time.monotonic() > parked_at + 4, 5, "its time-out of two seconds is over")
    assert service.status(job)["dead_letter"]
    until(lambda: service.get(f"/dead-letters/{job}")["error"].endswith("second"), 10)
    service.http.delete(f"/api/v1/dead-letters/{job}").raise_for_status()
    until(lambda: not service.status(job)["dead_letter"], 10)


@pytest.mark.parametrize("what", ["sagas_gathered", "sagas_in_a_task_group"])
@pytest.mark.parametrize("how", ["discarded", "cancelled"])
def test_sagas_beside_each_other_are_undone_to_their_ends(service: Service, what: str, how: str) -> None:
    label, job = begin(service, what)
    until(lambda: told(service, label, {"a last", "b last"}), 30)
    service.wait(job, "failed")
    path = f"/api/v1/jobs/{job}" if how == "cancelled" else f"/api/v1/dead-letters/{job}"
    service.http.delete(path).raise_for_status()
    until(lambda: told(service, label, UNDONE), 20, service.effects)
    until(lambda: not service.status(job)["dead_letter"], 20, lambda: service.status(job))
    assert service.status(job)["state"] == ("cancelled" if how == "cancelled" else "failed")


@pytest.mark.parametrize("how", ["awaits", "returns"])
def test_a_job_that_cancels_its_own_task_fails_once(service: Service, how: str) -> None:
    label = uuid4().hex
    job = service.submit("cancels_its_task", {"label": label, "how": how})
    service.wait(job, "failed")
    letter = service.get(f"/dead-letters/{job}")
    assert letter["reason"] == "unexpected"
    assert "cancelled its own task" in letter["error"]
    assert len(service.effects(label=label)) == 1


def test_a_workflow_that_cancels_its_own_step_has_failed_and_says_so(service: Service) -> None:
    _, job = begin(service, "cancels_its_step")
    until(lambda: service.status(job)["finished_at"] and service.status(job)["state"] == "failed", 20)
    until(lambda: "CancelledError" in (service.status(job)["error"] or ""), 10, lambda: service.status(job))


def test_the_replay_of_a_job_whose_key_another_has_is_refused(service: Service) -> None:
    label, first = begin(service, "plain_activity_fails")
    service.wait(first, "failed")
    assert "the cause itself" in service.status(first)["error"]
    service.gateway.post("/effects", json={"label": f"{label} again"}).raise_for_status()
    second = service.submit("parallel", {"label": label, "what": "plain_activity_fails"})
    assert second != first
    service.wait(second)
    answer = service.http.post(f"/api/v1/dead-letters/{first}/replay")
    assert answer.status_code == 409, answer.text
    assert f"its key is in use by job {second}" in answer.text
    assert service.status(second)["state"] == "succeeded"
