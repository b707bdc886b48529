"""Each two choices to different questions meet in a service that is installed, runs its demo and keeps its promises.

    uv run --frozen pytest tests/live

Of every such service: the demo, its own tests, and with the HTTP API the contract tests in CORE. Some two minutes each;
`-k` takes a part, and the end says how many pairs have run. One for a newer Python than this is rendered for this one.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
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


@pytest.fixture(scope="module", autouse=True)
def live() -> Iterator[set[Any]]:
    """The pairs that have run."""
    met: set[Any] = set()
    yield met
    every = set[Any]().union(*map(pairs, COVERING))
    print(
        f"\n{len(met & every):,} of {len(every):,} pairs of choices have run live, in {len(COVERING)} services at most"
    )


def stack_of(answers: dict[str, Any]) -> Stack:
    """The one of the contract tests with most of these answers."""
    fitting = [stack for stack in STACKS.values() if stack.answers.items() <= answers.items()]
    return max(fitting, key=lambda stack: len(stack.answers))


@pytest.mark.parametrize("combination", COVERING, ids=label)
def test_it_installs_demos_and_keeps_its_promises(combination: Answers, live: set[Any], tmp_path: Path) -> None:
    answers = {name: list(value) if isinstance(value, tuple) else value for name, value in combination.items()}
    answers = {name: answers[name] for name in RECORDED if choices(RECORDED[name])}
    answers["python_version"] = min(answers["python_version"], "3.{1}".format(*sys.version_info))
    stack = stack_of(answers)
    service = Installed.render(tmp_path / "service", stack.name, answers)
    (service.folder / "src" / service.package / "jobs" / "probes.py").unlink()
    environment = {**os.environ, **{name: program(script) for name, script in stack.programs.items()}}
    done(service.folder, environment, str(service.script), "demo")
    done(service.folder, environment, str(service.python), "-m", "pytest", "-q")
    if answers["api"]:
        given = [word for name, value in answers.items() for word in ("--answer", f"{name}={value}")]
        tests = [f"tests/contract/{name}" for name in CORE]
        done(ROOT, environment, sys.executable, "-m", "pytest", "-q", *tests, "--stack", stack.name, *given)
    live |= set(pairs(answers))


def done(folder: Path, environment: Mapping[str, str], *command: str) -> None:
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{command[-1]}: {ended.stdout[-6000:]}{ended.stderr[-2000:]}"
