"""The bounds in pyproject.toml are true: the lowest versions that they allow, and the newest, resolve and run.

    uv run --frozen pytest tests/dependencies

Three quarters of an hour, nearly all of it the network's: run it when a dependency or a bound changes.
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ..contract.stacks import STACKS, program
from ..render.checks import complaints
from ..render.matrix import Matrix
from ..render.rendering import QUESTIONS, Service, choices, export

UV = os.environ.get("UV") or shutil.which("uv") or "uv"
PYTHONS = choices(QUESTIONS["python_version"])


@pytest.fixture(scope="session")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    return Matrix(export(tmp_path_factory.mktemp("template")))


@pytest.fixture(scope="session")
def projects(matrix: Matrix) -> list[Service]:
    """One service for each distinct set of dependencies, on the oldest Python."""
    found = {}
    for service in matrix.each("pyproject.toml"):
        if service.answers["python_version"] != PYTHONS[0]:
            continue
        project = tomllib.loads(service.text("pyproject.toml"))
        wanted = [
            project["project"]["dependencies"],
            project["project"]["optional-dependencies"],
            project["dependency-groups"],
        ]
        found.setdefault(json.dumps(wanted), service)
    return list(found.values())


@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
@pytest.mark.parametrize("python", PYTHONS)
def test_every_set_of_dependencies_resolves_to_wheels(
    projects: list[Service], tmp_path: Path, python: str, resolution: str
) -> None:
    """Extras and the developers' group included; of wheels alone, so that it installs without a compiler."""
    options = ["--python-version", python, "--resolution", resolution, "--only-binary", ":all:", "--all-extras"]
    for number, service in enumerate(projects):
        folder = tmp_path / str(number)
        Service({}, {"pyproject.toml": service.files["pyproject.toml"]}).write(folder)
        compile_ = [UV, "pip", "compile", "--quiet", *options, "--group", "dev", "pyproject.toml", "-o", "locked.txt"]
        assert not complaints(compile_, folder), service.label


@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
@pytest.mark.parametrize("stack", choices(QUESTIONS["stack"]))
def test_a_service_that_needs_most_passes_its_own_tests(
    projects: list[Service], tmp_path: Path, stack: str, resolution: str
) -> None:
    """With those packages, on this Python."""
    of_stack = [service for service in projects if service.answers["stack"] == stack]
    folder = max(of_stack, key=lambda service: len(service.text("pyproject.toml"))).write(tmp_path / "service")
    programs = {variable: program(script) for variable, script in STACKS[stack].programs.items()}
    environment = {**os.environ, "UV_PYTHON": sys.executable, **programs}
    environment.pop("VIRTUAL_ENV", None)
    for command in (
        ["sync", "--quiet", "--all-extras", "--resolution", resolution],
        ["run", "--no-sync", "pytest", "-q"],
    ):
        done = subprocess.run([UV, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
