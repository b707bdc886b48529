"""The maintainer's workbench shows the template as it is."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .matrix import Matrix
from .rendering import ROOT

TEMPLATE = ROOT / "template"


def workbench(*arguments: str, code: int = 0, **environment: str) -> str:
    command = [sys.executable, ROOT / "scripts/workbench.py", *arguments]
    done = subprocess.run(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == code, done.stdout
    return done.stdout


@pytest.fixture
def folder() -> Iterator[Path]:
    found = ROOT / ".workbench/stack=arq,project_name=Bench"
    yield found
    shutil.rmtree(found, ignore_errors=True)


def test_it_lists_each_file_with_its_layer_and_the_answers_that_it_reads(matrix: Matrix) -> None:
    listed = workbench("files", "stack=arq").splitlines()
    paths = {line.split()[0] for line in listed if line.startswith("  ")}
    assert paths == set(matrix.render({"stack": "arq"}).files)
    assert "template/{{if_arq}}" in listed
    assert "template/{{if_celery}}" not in listed
    [queues] = [line for line in listed if line.split()[:1] == ["src/my_service/queues.py"]]
    assert "queues" in queues.replace(",", "").split()


def test_what_it_runs_is_linked_to_the_template(folder: Path, matrix: Matrix) -> None:
    said = workbench("run", "stack=arq", "project_name=Bench", UV="echo")
    assert said.splitlines()[-1] == "run bench dev"
    service = matrix.render({"stack": "arq", "project_name": "Bench"})
    for path, content in service.files.items():
        assert (folder / path).read_bytes() == content
    linked = {path for path in service.files if (folder / path).is_symlink()}
    assert all((folder / path).resolve().is_relative_to(TEMPLATE) for path in linked)
    assert linked == {path for path, file in matrix.sources(service).items() if file.plain}


def test_an_answer_that_is_none_is_refused_in_a_line() -> None:
    assert len(workbench("files", "stack=rq", code=2).splitlines()) < 5
    assert "Answers: project_name" in workbench("files", "stak=arq", code=2)
