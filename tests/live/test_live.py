"""Each two choices to different questions meet in a service that is installed, runs its demo and keeps its promises.

    uv run --frozen pytest tests/live

Of every such service: the demo, its own tests, and with the HTTP API the contract tests in CORE. Some two minutes each,
as many at once as there are cores; `-k` takes a part, and the end says how many pairs have run. A service runs on the
oldest Python that it is for, if PATH has that (`python3.13`); else it is rendered for the one that runs this.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import pytest

from ..contract.installed import Installed
from ..contract.stacks import ROOT, STACKS, Stack, program
from ..render.matrix import Matrix
from ..render.rendering import RECORDED, Answers, choices, export, label, pairs

CORE = ("test_results.py", "test_retries.py")
"""Of tests/contract: what asks for no queue by name, since not every service has it."""

with TemporaryDirectory() as scratch:
    COVERING = Matrix(export(Path(scratch))).covering


Proofs = dict[str, Future[set[Any]]]
rendering = Lock()  # Copier changes the process's folder


@pytest.fixture(scope="module")
def proofs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proofs]:
    """Of each chosen combination, by its id: done by as many at once as there are cores."""
    items: list[Any] = [item for item in request.session.items if item.path == Path(__file__)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        started = {
            item.callspec.id: pool.submit(prove, item.callspec.params["combination"], tmp_path_factory.mktemp("live"))
            for item in items
        }
        yield started
        pool.shutdown(cancel_futures=True)
    ended = [proof for proof in started.values() if not proof.cancelled() and not proof.exception()]
    met, every = set[Any]().union(*(proof.result() for proof in ended)), set[Any]().union(*map(pairs, COVERING))
    print(
        f"\n{len(met & every):,} of {len(every):,} pairs of choices have run live, in {len(COVERING)} services at most"
    )


def stack_of(answers: dict[str, Any]) -> Stack:
    """The one of the contract tests with most of these answers."""
    fitting = [stack for stack in STACKS.values() if stack.answers.items() <= answers.items()]
    return max(fitting, key=lambda stack: len(stack.answers))


@pytest.mark.parametrize("combination", COVERING, ids=label)
def test_it_installs_demos_and_keeps_its_promises(
    combination: Answers, proofs: Proofs, request: pytest.FixtureRequest
) -> None:
    proofs[request.node.callspec.id].result()


def prove(combination: Answers, folder: Path) -> set[Any]:
    """Answers the pairs of choices that it has."""
    answers: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value for name, value in combination.items()
    }
    answers = {name: answers[name] for name in RECORDED if choices(RECORDED[name])}
    if not (python := interpreter(answers["python_version"])):
        python, answers["python_version"] = sys.executable, "3.{1}".format(*sys.version_info)
    stack = stack_of(answers)
    with rendering:
        service = Installed.render(folder / "service", stack.name, answers, python)
    service.remove_probes()
    programs = {name: program(script) for name, script in stack.programs.items()}
    environment = {**os.environ, "UV_PYTHON": python, **programs}
    done(service.folder, environment, str(service.script), "demo")
    done(service.folder, environment, str(service.python), "-m", "pytest", "-q")
    if answers["api"]:
        given = [word for name, value in answers.items() for word in ("--answer", f"{name}={value}")]
        tests = [f"tests/contract/{name}" for name in CORE]
        done(ROOT, environment, sys.executable, "-m", "pytest", "-q", *tests, "--stack", stack.name, *given)
    return set(pairs(answers))


def interpreter(version: str) -> str | None:
    """The Python of this version on PATH, if it starts."""
    found = shutil.which(f"python{version}")
    return found if found and subprocess.call([found, "-c", ""], stderr=subprocess.DEVNULL) == 0 else None


def done(folder: Path, environment: Mapping[str, str], *command: str) -> None:
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{command[-1]}: {ended.stdout[-6000:]}{ended.stderr[-2000:]}"
