"""However a part of a workflow ends, what waits for it ends, too: later steps, fan-ins, error callbacks, keys."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from ..contract.installed import Installed
from ..contract.processes import until
from ..contract.service import FINAL, Service, running

LEASE = 24.0  # seconds, the default
CONSTRUCTS = {
    "celery": (
        "link",
        "group",
        "chain",
        "chord",
        "reported",
        "chord after it",
        "chord in chain",
        "chord in chord",
        "chain in chord",
        "chord, then chain",
        "chord, then group",
    ),
    "arq": ("chain", "reported"),
}
HANDLED = ("link", "group", "chain", "chord", "chord after it", "chord in chord", "chain in chord")
WAYS = {  # how a part ends → its state
    "succeeds": "succeeded",
    "fails": "failed",
    "cancelled waiting": "cancelled",
    "cancelled running": "cancelled",
    "revoked waiting": "cancelled",
    "revoked running": "cancelled",
    "skipped": "cancelled",
    "expired": "cancelled",
    "discarded": "failed",
    "poison": "failed",
    "soft limit": "failed",
    "hard limit": "failed",
    "unknown job": "failed",
}

NOT_ON_ARQ = ("revoked waiting", "revoked running", "expired", "unknown job")  # its workflows cannot have such parts
WAYS_OF = {"celery": tuple(WAYS), "arq": tuple(how for how in WAYS if how not in NOT_ON_ARQ)}
SINGLETONS = {"celery": ("exclusive_or_not", "exclusive_reported"), "arq": ("exclusive_or_not", "exclusive")}


@dataclass
class Flow:
    """One workflow with one part that ends in one way."""

    label: str
    how: str
    part: str
    waiting: list[str]
    states: list[str] = field(default_factory=list)


def cancel(service: Service, flow: Flow) -> None:
    service.http.delete(f"/api/v1/jobs/{flow.part}").raise_for_status()


def revoke(service: Service, flow: Flow, *, terminate: bool = False) -> None:
    service.wait(service.submit("revokes", {"job_id": flow.part, "terminate": terminate}, queue="critical"))


def discard(service: Service, flow: Flow) -> None:
    service.wait(flow.part, "failed")
    service.http.delete(f"/api/v1/dead-letters/{flow.part}").raise_for_status()


DONE_TO_IT: dict[str, Callable[[Service, Flow], None]] = {
    "cancelled waiting": cancel,
    "cancelled running": cancel,
    "revoked waiting": revoke,
    "revoked running": lambda service, flow: revoke(service, flow, terminate=True),
    "discarded": discard,
}


@dataclass
class Flows:
    """A service in which each workflow has ended."""

    service: Service
    found: dict[tuple[str, str], Flow] = field(default_factory=dict)

    def build(self, construct: str, how: str) -> None:
        label = f"{construct}, {how}"
        built = self.service.submit("builds", {"shape": construct, "how": how, "label": label}, queue="critical")
        self.found[construct, how] = Flow(label, how, built, [])

    def look_up(self) -> None:
        for flow in self.found.values():
            self.service.wait(flow.part)
            built = self.service.result(flow.part)
            flow.part, flow.waiting = built["part"], built["waiting"]

    def intervene(self, flow: Flow) -> bool:
        """Do to the part what ends it, once that can be done."""
        state = self.service.status(flow.part)["state"]
        if state in FINAL or (state == "running" and flow.how.endswith("running")) or flow.how.endswith("waiting"):
            DONE_TO_IT[flow.how](self.service, flow)
            return True
        return False

    def states(self, ids: list[str]) -> list[str]:
        return [self.service.http.get(f"/api/v1/jobs/{job}").json().get("state", "unknown") for job in ids]

    def run(self) -> None:
        self.look_up()
        left = [flow for flow in self.found.values() if flow.how in DONE_TO_IT]

        def all_ended() -> bool:
            left[:] = [flow for flow in left if not self.intervene(flow)]
            return not left and all(state in FINAL for state in self.states(self.parts))

        with suppress(AssertionError):  # the tests say which
            until(all_ended, 20 * LEASE)
        with suppress(AssertionError):
            until(lambda: all(state in FINAL for state in self.states(self.waiting)), LEASE)
        for flow in self.found.values():
            flow.states = self.states([flow.part, *flow.waiting])

    @property
    def parts(self) -> list[str]:
        return [flow.part for flow in self.found.values()]

    @property
    def waiting(self) -> list[str]:
        return [job for flow in self.found.values() for job in flow.waiting]


def stack_of(installed: Installed) -> str:
    return str(installed.stack.answers["stack"])


def selected(stack: str, construct: str, how: str) -> bool:
    """CI's: each way in one construct, the commonest ways in each; but nothing that ends workers of ARQ for a lease."""
    if stack == "arq" and how in ("poison", "hard limit"):
        return False
    return construct in ("chord", "reported") or how in ("fails", "cancelled waiting")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "construct" in metafunc.fixturenames:
        stack = metafunc.config.getoption("stack", "celery").replace("rabbitmq", "celery")
        cases = [(construct, how) for construct in CONSTRUCTS.get(stack, ()) for how in WAYS_OF.get(stack, ())]
        marks = [[] if selected(stack, *case) else [pytest.mark.thorough] for case in cases]
        metafunc.parametrize(
            ("construct", "how"), [pytest.param(*case, marks=mark) for case, mark in zip(cases, marks, strict=True)]
        )


@pytest.fixture(scope="module")
def flows(installed: Installed, pytestconfig: pytest.Config) -> Iterator[Flows]:
    stack = stack_of(installed)
    with running(installed, workers=0) as service:
        service.start_worker("default", "bulk")
        service.start_worker("critical")  # for what builds workflows and ends their parts
        service.wait_for_workers(2)
        singletons = SINGLETONS[stack]
        holders = [service.submit(job, {"label": "holder", "seconds": 600}, queue="bulk") for job in singletons]
        service.told("holder", len(holders))
        flows = Flows(service)
        for construct in CONSTRUCTS[stack]:
            for how in WAYS_OF[stack]:
                if pytestconfig.getoption("--all") or selected(stack, construct, how):
                    flows.build(construct, how)
        flows.run()
        for holder in holders:
            service.http.delete(f"/api/v1/jobs/{holder}")
        yield flows
        print("\n" + matrix(installed.stack.name, flows))


def matrix(stack: str, flows: Flows) -> str:
    return "\n".join(
        f"{stack:9} {construct:17} {how:18} part {flow.states[0]}, waiting {', '.join(flow.states[1:]) or 'none'}"
        for (construct, how), flow in flows.found.items()
    )


def test_what_waits_for_a_part_ends_with_it(flows: Flows, construct: str, how: str) -> None:
    service, flow = flows.service, flows.found[construct, how]
    assert flow.states[0] == WAYS[how]
    runs = how == "succeeds" or (construct == "reported" and how != "unknown job")
    assert flow.states[1:] == ["succeeded" if runs else "failed" for _ in flow.waiting]
    if not runs:
        for job in flow.waiting:
            error = service.status(job)["error"]
            assert error.startswith(
                (f"step {'no_such_job' if how == 'unknown job' else ''}", "ChordError: Dependency ")
            )
            if (construct, how) == ("chord in chain", "cancelled waiting") and flow.part not in error:
                earlier = error.partition("(job ")[2].partition(")")[
                    0
                ]  # it waited for that one, which is cancelled, too
                assert service.status(earlier)["state"] == "cancelled"
                continue
            assert flow.part in error or construct in ("chord in chord", "chain in chord"), (
                "of which the step next to it"
            )
    if construct == "reported" and how not in ("succeeds", "unknown job"):
        outcome, fine = service.result(flow.waiting[0])
        assert (fine if isinstance(fine, str) else fine["value"]) == f"{flow.label} fine"
        assert outcome["ok"] is False
        assert outcome["job_id"] == flow.part
        assert outcome["error"]
        assert how not in ("cancelled waiting", "cancelled running") or outcome["error"] == "cancelled"
    handled = construct in HANDLED and how != "succeeds"
    label = f"{flow.label} error" if stack_of(service.installed) == "celery" else f"{flow.part}-error"
    most = 3 if stack_of(service.installed) == "arq" else 1  # there a poisonous part takes those beside it along

    def handled_as_often_as_needed() -> bool:
        return handled <= len(service.effects(label=label)) <= handled * most

    until(handled_as_often_as_needed, 10, lambda: service.effects(label=label))


def test_nothing_is_left_behind(flows: Flows) -> None:
    until(lambda: sum(queue["depth"] for queue in flows.service.get("/queues")) == 0, 10)
    assert flows.service.health()["ok"]
