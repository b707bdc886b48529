"""However a job ends, it runs once, its state, reason and text are right, and worker and neighbours are untouched."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from ..contract.installed import Installed
from ..contract.processes import until
from ..contract.service import FINAL, Service, running

NEIGHBOURS = 2
SECONDS = 15  # that a neighbour works; the others end meanwhile
LONGEST = 8 * 1024  # bytes of an error
JOBS = {"celery": ("ends",), "arq": ("ends",), "temporal": ("ends", "ends_in_a_thread")}


@dataclass(frozen=True)
class Expected:
    """Of the job's document: how the error begins, what else stands in it; or the result."""

    begins: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    result: Any = None


@dataclass
class Ended:
    """A service in which each kind has ended, while neighbours worked beside it."""

    service: Service
    worker: int
    jobs: dict[tuple[str, str], str]
    neighbours: list[str]
    printed: dict[tuple[str, str], str] = field(default_factory=dict)


def error(begins: str, *others: str) -> Expected:
    return Expected(begins=(begins, *others))


def no_json(kind: str) -> Expected:
    return Expected(holds=(f"returned {kind}", "not JSON"))


ENDS: dict[str, Expected] = {
    "value": Expected(result={"answer": 42}),
    "none": Expected(result=None),
    "large": Expected(result="x" * 200_000),
    "looks_like_a_reference": Expected(result={"$ref": "another-job", "bytes": 3}),
    "not_json": no_json("object"),
    "bytes": no_json("bytes"),
    "nan": no_json("float"),
    "infinity_inside": no_json("dict"),
    "surrogate_value": no_json("str"),
    "error": error("RuntimeError: simply failed"),
    "no_text": error("RuntimeError"),
    "file_not_found": error("FileNotFoundError: [Errno 2] No such file or directory: '/srv/x.png'"),
    "zero_division": error("ZeroDivisionError: "),
    "assertion": error("AssertionError: it does not hold"),
    "from_a_cause": error("RuntimeError: the effect"),
    "group": error("ExceptionGroup: several (2 sub-exceptions)"),
    "stop_iteration": error("StopIteration", "RuntimeError: coroutine raised StopIteration"),
    "stop_async_iteration": error("StopAsyncIteration: over"),
    "recursion": error("RecursionError: maximum recursion depth exceeded"),
    "memory_error": error("MemoryError"),
    "timeout_error": error("TimeoutError: no answer"),
    "connection_error": error("ConnectionRefusedError: [Errno 111] Connection refused"),
    "unprintable": error("Unprintable: "),
    "unpicklable": error("Unpicklable: cannot be pickled"),
    "keyed": error("Keyed: ({b'\\xff':"),
    "surrogate_text": error("ValueError: half an emoji \\ud83d"),
    "encodes": error("UnicodeEncodeError: 'utf-8' codec can't encode character '\\ud83d'"),
    "nul_text": error("ValueError: a "),
    "huge_text": error("ValueError: begins here xxxxxxxx"),
    "system_exit": error("SystemExit: 3"),
    "system_exit_0": error("SystemExit: 0"),
    "exit_by_argparse": error("SystemExit: 2"),
    "keyboard_interrupt": error("KeyboardInterrupt"),
    "generator_exit": error("GeneratorExit"),
    "cancelled_error": error("CancelledError: by itself"),
    "own_base_exception": error("OwnBaseException: on its own"),
    "base_group": error("BaseExceptionGroup: several (2 sub-exceptions)"),
}
PROCESS_ENDS = ("process_exit_0", "process_exit_3", "process_killed", "process_aborted")


def jobs_of(installed: Installed) -> tuple[str, ...]:
    return JOBS[installed.stack.answers["stack"]]


@pytest.fixture(scope="module")
def ended(installed: Installed) -> Iterator[Ended]:
    with running(installed) as service:
        [worker] = service.workers
        neighbours = [
            service.submit("mark", {"label": "neighbour", "seconds": SECONDS}, queue=queue)
            for queue in ("bulk", "default")[:NEIGHBOURS]
        ]
        service.told("neighbour", NEIGHBOURS)
        jobs = {
            (job, kind): service.submit(job, {"kind": kind, "label": f"{job} {kind}"})
            for job in jobs_of(installed)
            for kind in ENDS
        }
        found = Ended(service, worker.pid, jobs, neighbours)
        with suppress(AssertionError):  # each test below says which
            until(lambda: all(service.status(job)["state"] in FINAL for job in jobs.values()), 60)
        yield found
        print("\n" + matrix(installed.stack.name, found.printed))


def matrix(stack: str, printed: dict[tuple[str, str], str]) -> str:
    return "\n".join(f"{stack:9} {job:17} {kind:24} {outcome}" for (job, kind), outcome in printed.items())


@pytest.mark.parametrize("kind", ENDS)
def test_an_end_is_recorded_once_with_its_text(ended: Ended, kind: str) -> None:
    for job in jobs_of(ended.service.installed):
        check(ended, job, kind, ENDS[kind])


def check(ended: Ended, job: str, kind: str, expected: Expected) -> None:
    service, job_id = ended.service, ended.jobs[job, kind]
    status = service.status(job_id)
    ended.printed[job, kind] = f"{status['state']}, attempts {status['attempts']}, {(status['error'] or '')[:60]!r}"
    assert len(service.effects(label=f"{job} {kind}")) == 1, "it ran more than once"
    assert status["attempts"] == 1
    if not expected.begins and not expected.holds:
        assert status["state"] == "succeeded", status
        assert service.result(job_id) == expected.result
        return
    assert status["state"] == "failed", status
    assert status["dead_letter"]
    text = status["error"]
    assert not expected.begins or text.startswith(expected.begins)
    assert all(part in text for part in expected.holds), text
    assert len(text.encode()) <= LONGEST
    letter = service.get(f"/dead-letters/{job_id}")
    assert letter["error"] == text
    assert letter["reason"] == ("permanent" if expected.holds else "unexpected")
    assert len(letter["traceback"].encode()) <= 16 * LONGEST
    if not expected.holds:
        assert "in end" in letter["traceback"], "the place where it was raised"
    assert json.loads(service.cli("status", job_id, "--json"))["error"] == text


def test_neighbours_and_the_worker_are_untouched(ended: Ended) -> None:
    service = ended.service
    for job in ended.neighbours:
        assert service.wait(job)["attempts"] == 1
    assert len(service.effects(label="neighbour")) == NEIGHBOURS
    assert [worker.pid for worker in service.workers] == [ended.worker]
    service.wait(service.submit("noop"), within=5)
    until(lambda: sum(queue["depth"] for queue in service.get("/queues")) == 0, 10, lambda: service.get("/queues"))
    assert service.health()["ok"], service.health()


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind == "process_exit_0" else pytest.mark.thorough) for kind in PROCESS_ENDS],
)
def test_a_job_that_ends_its_process_is_a_dead_letter_after_three_runs(installed: Installed, kind: str) -> None:
    with running(installed) as service:
        [worker] = service.workers
        job = service.submit("ends", {"kind": kind, "label": kind})
        status = service.wait(job, "failed", within=100)
        assert len(service.effects(label=kind)) == 3
        assert status["error"].startswith("PoisonError: ") or "killed its worker" in status["error"]
        assert service.get(f"/dead-letters/{job}")["reason"] == "poison"
        service.wait(service.submit("noop"), within=30)
        assert worker.returncode is None
