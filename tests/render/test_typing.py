"""A wrong call of a job is an error in the editor, not in production: for mypy, pyright and ty alike.

The calls are in tests/typing/, a file for each stack.
"""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .matrix import Matrix
from .rendering import ROOT

CALLS = sorted((ROOT / "tests/typing").glob("*.py"))


def reported(output: str) -> set[int]:
    """The lines with errors, in `path:line:…: error…`, which mypy and ty print."""
    return {int(line) for line in re.findall(r"^calls\.py:(\d+):.*\berror\b", output, re.MULTILINE)}


def checked(service: Path, python: Path) -> dict[str, set[int]]:
    """The lines of calls.py that each checker reports, run with its strictest rules where its user would run it."""

    def output(*command: str) -> str:
        environment = {**os.environ, "MYPYPATH": "src"}
        return subprocess.run(
            [*command, "calls.py"], cwd=service, env=environment, stdout=subprocess.PIPE, text=True, check=False
        ).stdout

    mypy = output("mypy", "--strict", "--follow-imports=silent", f"--python-executable={python}")
    pyright: dict[str, Any] = json.loads(output("pyright", "--outputjson", f"--pythonpath={python}"))
    ty = output("ty", "check", "--output-format=concise", f"--python={python}")
    found = [error for error in pyright["generalDiagnostics"] if error["severity"] == "error"]
    return {
        "mypy": reported(mypy),
        "pyright": {error["range"]["start"]["line"] + 1 for error in found},
        "ty": reported(ty),
    }


@pytest.mark.parametrize("calls", CALLS, ids=lambda path: path.stem)
def test_type_checkers_report_each_wrong_call_and_no_other(
    matrix: Matrix, environment: Callable[[str], Path], tmp_path: Path, calls: Path
) -> None:
    service = matrix.render({"stack": calls.stem}).write(tmp_path / "service")
    text = calls.read_text()
    (service / "calls.py").write_text(text)
    python = environment(calls.stem) / "bin" / "python"

    wrong = {number for number, line in enumerate(text.splitlines(), 1) if "# wrong: " in line}
    assert checked(service, python) == {"mypy": wrong, "pyright": wrong, "ty": wrong}
