"""Whatever Redis answers, at whichever step of a job: none is lost, none has two effects, the API says 503 at once.

The worker stays, or ends with an exit code other than 0, so that whoever watches it starts another; afterwards jobs go
on. A row of the matrix, which is printed, is one answer at every step; those that CI runs have another one at each.
ANSWERS_STEPS=start,finish tries these steps alone.
"""

import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count, cycle
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from ..contract.installed import Installed
from ..contract.processes import until
from ..contract.service import FINAL, Service
from .answers import ANSWERS, STEPS, Step, step_of
from .resp_proxy import RespProxy, Rule

LEASE, RENEWAL = 12, 4  # seconds, as 24 and 8 are by default: two renewals may fail, and must then be repeated soon
LONGER_THAN_A_LEASE = 14
AT_ONCE = 3.0  # seconds in which the API answers
NOISE = 1.5  # seconds that a busy machine may add
TIMES = 2  # so often a step gets the answer: one more than the client tries by itself
MET_WITHIN = 60.0  # seconds: ARQ sends its steps by one connection, on which each silence holds up all others
numbers = count()

ERRORS = [name for name in ANSWERS if ANSWERS[name].kind == "error"]
SELECTION = {
    "another error at each step": ERRORS,
    "a lost reply at each step": ["closed after", "silence", "truncated", "closed", "silence after"],
}


@dataclass
class Proxied:
    """A service whose parts reach Redis through a proxy each."""

    service: Service
    proxies: Mapping[str, RespProxy]
    steps: Mapping[str, Step]
    fires_since: float


@dataclass
class Cell:
    """One answer at one step."""

    name: str
    step: Step
    answer: str
    label: str
    rule: Rule | None = None
    job: str = ""
    wrong: str = ""


@contextmanager
def proxied(installed: Installed) -> Generator[Proxied, None, None]:
    service = Service(installed, {"lease": LEASE, "renewal": RENEWAL})
    port = urlsplit(service.environment["REDIS_URL"]).port
    assert port
    with ExitStack() as stack:
        stack.callback(service.close)
        proxies = {
            part: stack.enter_context(RespProxy(port, step_of(installed))) for part in ("api", "scheduler", "worker")
        }

        def behind(part: str) -> None:
            service.environment["REDIS_URL"] = f"redis://127.0.0.1:{proxies[part].port}/0"

        service.start_broker()
        service.start_gateway()
        behind("scheduler")
        service.start_scheduler()
        began = time.time()
        behind("api")
        service.start_api()
        behind("worker")
        stack.enter_context(service.supervised_worker())
        service.wait_for_workers(1)
        only = os.environ.get("ANSWERS_STEPS", "").split(",")
        steps = STEPS[installed.stack.name]
        chosen = {name: step for name, step in steps.items() if only == [""] or name in only}
        yield Proxied(service, proxies, chosen, began)


@pytest.fixture(scope="module")
def behind_proxies(installed: Installed) -> Iterator[Proxied]:
    with proxied(installed) as started:
        yield started


@pytest.mark.parametrize("row", SELECTION)
def test_no_answer_of_redis_costs_a_job(behind_proxies: Proxied, row: str, capsys: pytest.CaptureFixture[str]) -> None:
    answers = dict(zip(behind_proxies.steps, cycle(SELECTION[row])))
    check(behind_proxies, row, answers, capsys)


@pytest.mark.thorough
@pytest.mark.parametrize("answer", ANSWERS)
def test_each_answer_at_each_step(behind_proxies: Proxied, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    check(behind_proxies, answer, dict.fromkeys(behind_proxies.steps, answer), capsys)


def check(on: Proxied, row: str, answers: Mapping[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Give these answers, by step, and print the row."""
    service, number = on.service, next(numbers)
    ended_before = len(ends(service))
    cells = [Cell(name, step, answers[name], f"{name} {number}".replace(" ", "-")) for name, step in on.steps.items()]
    by_asker = {part: [cell for cell in cells if cell.step.asker == part] for part in on.proxies}
    try:
        for cell in by_asker["scheduler"]:
            refuse(on, cell)
        for cell in by_asker["api"]:
            ask_the_api(on, cell)
        on.proxies["worker"].freeze()  # so that no job is over before its answer is set
        for cell in by_asker["worker"]:
            cell.job = submit(service, cell)
            refuse(on, cell)
        on.proxies["worker"].thaw()
        deadline = time.monotonic() + MET_WITHIN
        while any(cell.rule and not cell.rule.met for cell in cells) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        on.proxies["worker"].thaw()
        for proxy in on.proxies.values():
            proxy.clear()
    for cell in cells:
        unmet = "its step did not come" if cell.rule and not cell.rule.met else ""
        cell.wrong = cell.wrong or unmet or judge(on, cell)
    wrong = {cell.name: cell.wrong for cell in cells if cell.wrong}
    with capsys.disabled():
        print(f"\n{row}: " + ", ".join(f"{cell.name} {'FAILS' if cell.wrong else 'ok'}" for cell in cells))
        print(*(f"  {name} ({answers[name]}): {why}"[:300] for name, why in wrong.items()), sep="\n")
    for code in ends(service)[ended_before:]:
        if code == 0:
            wrong["worker"] = "it ended with exit code 0"
    until(service.http.get("/health/ready").raise_for_status, 10)
    service.wait(service.submit("noop"), within=30)
    until(lambda: service.health()["ok"], 30, service.health)
    assert not wrong, "\n".join(f"{name} ({answers.get(name)}): {why}" for name, why in wrong.items())


def ends(service: Service) -> list[int]:
    """The exit codes of the workers that are gone."""
    codes = [process.returncode for process in service.processes if process.name == "worker"]
    return [code for code in codes if code is not None]


def refuse(on: Proxied, cell: Cell) -> None:
    """From now on the cell's step gets its answer."""
    step = cell.step
    having = (cell.job or cell.label) if step.of_the_job else step.having
    cell.rule = on.proxies[step.asker].answer(step.on, ANSWERS[cell.answer], having=having, times=TIMES)


def submit(service: Service, cell: Cell) -> str:
    """The cell's job, by its id."""
    label = cell.label
    payloads = {
        "effect": {"key": label, "seconds": 0.3},
        "long": {"key": label, "seconds": LONGER_THAN_A_LEASE},
        "steps": {"seconds": 0.1},
        "snoozing": {"label": label, "times": 1},
        "flaky": {"label": label, "times": 1},
    }
    job = "effect" if cell.step.job == "long" else cell.step.job
    return service.submit(job, payloads[cell.step.job], key=label)


def ask_the_api(on: Proxied, cell: Cell) -> None:
    """Ask again for as long as it says 503, as callers do, each time within three seconds."""
    service, http = on.service, on.service.http
    if cell.step.job == "effect":
        refuse(on, cell)
        answer = persist(cell, lambda: service.post("effect", {"key": cell.label}, key=cell.label))
        cell.job = answer.json()["id"] if answer else ""
        return
    if cell.step.job == "later":
        cell.job = service.submit("mark", {"label": cell.label}, key=cell.label, delay=60)
    else:
        cell.job = service.submit("effect", {"key": cell.label})
        service.wait(cell.job)
    refuse(on, cell)
    path = f"/api/v1/jobs/{cell.job}"
    if cell.step.job == "later":
        persist(cell, lambda: http.delete(path))
    else:
        persist(cell, lambda: http.get(f"{path}/result" if cell.name == "result" else path))


def persist(cell: Cell, call: Callable[[], httpx.Response]) -> httpx.Response | None:
    for _ in range(10):
        began = time.monotonic()
        answer = call()
        taken = time.monotonic() - began
        if answer.status_code not in (200, 202, 503):
            cell.wrong = f"the API answers {answer.status_code}: {answer.text}"
        if taken > AT_ONCE + NOISE:
            cell.wrong = f"the API answers {answer.status_code} after {taken:.1f} s"
        if answer.status_code in (200, 202):
            return answer
        time.sleep(0.3)
    cell.wrong = cell.wrong or "the API answers 503 for ever"
    return None


def judge(on: Proxied, cell: Cell) -> str:
    """What is wrong with the cell's job; waits until it has ended."""
    service = on.service
    if not cell.step.job:
        return judge_firings(on)
    deadline = time.monotonic() + 40
    wanted = "cancelled" if cell.step.job == "later" else "succeeded"
    while (status := document(service, cell.job))["state"] not in FINAL and time.monotonic() < deadline:
        time.sleep(0.2)
    starts = len(service.effects(label=f"start {cell.label}") or service.effects(label=cell.label))
    told = {"snoozing": 2, "flaky": 2, "later": 0, "steps": 0}.get(cell.step.job, 1)
    if status["state"] != wanted:
        return f"it is {status['state']}: {status}"
    return "" if starts == told else f"it ran {starts} times, not {told}: {status}"


def document(service: Service, job: str) -> dict[str, Any]:
    answer = service.http.get(f"/api/v1/jobs/{job}")
    return answer.json() if answer.status_code == 200 else {"state": f"not there: {answer.text}"}


def judge_firings(on: Proxied) -> str:
    """Each time of the schedule has fired once, and it goes on."""
    service = on.service
    before = service.effects(label="tick")
    until(lambda: len(service.effects(label="tick")) > len(before), 20, "the schedule fires again")
    ids, times = [told["id"] for told in before], (time.time() - on.fires_since) / 2
    if len(ids) != len(set(ids)):
        return "one firing ran twice"
    return "" if len(ids) <= times + 1 else f"{len(ids)} firings for {times:.0f} times"
