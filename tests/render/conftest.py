"""One export of the template and one matrix of its combinations, shared by all render tests."""

import os
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from .checks import complaints
from .matrix import Matrix
from .rendering import Service, export

REPORT = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> list[str]:
    """What is told at the end."""
    return pytestconfig.stash.setdefault(REPORT, [])


@pytest.fixture(scope="session")
def matrix(template: Path, report: list[str]) -> Matrix:
    found = Matrix(template)
    count = f"{len(found.combinations):,} combinations, {len(found.contents):,} distinct files"
    report.append(f"{count}; a covering set of {len(found.covering)}")
    return found


@pytest.fixture(scope="session")
def default(matrix: Matrix) -> Service:
    return matrix.render({})


@pytest.fixture(scope="session")
def environment(matrix: Matrix, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Where everything is installed that the services of a stack may import."""
    uv = os.environ.get("UV") or shutil.which("uv")
    assert uv, "the type checks need uv to install what a service imports: run the tests by `sh scripts/test.sh`"

    @cache
    def installed(stack: str) -> Path:
        folder = tmp_path_factory.mktemp(stack)
        projects = [service for service in matrix.each("pyproject.toml") if service.answers["stack"] == stack]
        texts = {service.files["pyproject.toml"] for service in projects if service.answers["python_version"] == "3.11"}
        wanted: list[str] = []
        for number, text in enumerate(sorted(texts)):
            project = Service({}, {"pyproject.toml": text}).write(folder / str(number)) / "pyproject.toml"
            wanted += ["-r", str(project), "--group", f"{project}:dev"]
        python = folder / "environment"
        assert not complaints([uv, "venv", "--quiet", "--python", sys.executable, str(python)], folder)
        assert not complaints([uv, "pip", "install", "--quiet", "--python", str(python), *wanted], folder)
        return python

    return installed


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if report := config.stash.get(REPORT, None):
        terminalreporter.section("the matrix")
        terminalreporter.write_line("\n".join(report))
