"""Whatever is answered, the output is formatted, linted, typed and parses: nobody runs a formatter after us."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from .rendering import QUESTIONS, Renderer, Service, choices

Contents = Mapping[tuple[str, bytes], Service]
PARSERS: dict[str, Callable[[str], Any]] = {
    ".json": json.loads,
    ".toml": tomllib.loads,
    ".yaml": lambda text: list(yaml.safe_load_all(text)),
    ".yml": lambda text: list(yaml.safe_load_all(text)),
}
TEMPLATE_OF_ITS_OWN = "{# All pages of the console"
LEFTOVER = re.compile(r"\{%[-+]? \w|\{#[- ]|\{\{[^}\n]*\b(" + "|".join(QUESTIONS) + r"|_copier_\w+)\b")


def blemishes(text: str) -> list[str]:
    """What a reader of a rendered file would stumble over."""
    lines = text.split("\n")
    found = [f"line {n}: trailing space" for n, line in enumerate(lines, 1) if line != line.rstrip()]
    if not text.startswith(TEMPLATE_OF_ITS_OWN):
        found += [f"line {n}: template code" for n, line in enumerate(lines, 1) if LEFTOVER.search(line)]
    if text and not text.endswith("\n"):
        found.append("no newline at the end")
    if text.startswith("\n") or text.endswith("\n\n"):
        found.append("blank lines at an end")
    if "\n\n\n\n" in text:
        found.append("three blank lines in a row")
    if "\r" in text or "\t" in text:
        found.append("a tab or a carriage return")
    return found


@pytest.mark.parametrize(
    "text",
    [
        "a \n",
        "a",
        "\na\n",
        "a\n\n",
        "a\n\n\n\nb\n",
        "a\r\n",
        "a\tb\n",
        "{{ package }}\n",
        "{% if api %}\n",
        "{# why #}\n",
    ],
)
def test_a_blemish_is_found(text: str) -> None:
    assert blemishes(text)


def test_no_stray_blanks_and_no_template_code_is_left(contents: Contents) -> None:
    found = {
        f"{path} ({service.label})": problems
        for (path, content), service in contents.items()
        if (problems := blemishes(content.decode()))
    }
    assert not found


def test_data_files_parse(contents: Contents) -> None:
    for (path, content), service in contents.items():
        if parse := PARSERS.get(Path(path).suffix):
            try:
                parse(content.decode())
            except ValueError as error:
                pytest.fail(f"{path} ({service.label}): {error}")


def test_python_is_formatted_and_linted_by_the_services_own_rules(
    contents: Contents, services: Sequence[Service], tmp_path: Path
) -> None:
    """Each distinct file once under the rules of each Python version, which differ in what pyupgrade may ask for."""
    sources = list({key: service for key, service in contents.items() if key[0].endswith(".py")})
    for version in choices(QUESTIONS["python_version"]):
        folder = tmp_path / version
        rules = next(s for s in services if s.answers.get("python_version") == version).files["pyproject.toml"]
        folder.mkdir()
        (folder / "pyproject.toml").write_bytes(rules)
        for number, (path, content) in enumerate(sources):
            target = folder / str(number) / path
            target.parent.mkdir(parents=True)
            target.write_bytes(content)
        run(["ruff", "format", "--check", "--no-cache", "."], folder)
        run(["ruff", "check", "--no-cache", "--output-format=concise", "."], folder)


@pytest.mark.parametrize("stack", choices(QUESTIONS["stack"]))
def test_python_passes_the_type_check(renderer: Renderer, tmp_path: Path, stack: str) -> None:
    """Every set of files that the API and the results make, on the oldest Python; the default one on the newest."""
    queues = choices(QUESTIONS["queues"])
    cases = [
        {"stack": stack, "api": api, "large_results": results, "queues": chosen}
        for api in (True, False)
        for results in choices(QUESTIONS["large_results"])
        for chosen in (queues, ["default"])
    ]
    cases += [{"stack": stack, "api": api, "monitoring": ["opentelemetry"]} for api in (True, False)]
    cases += [{"stack": stack, "api": api, "monitoring": ["flower"]} for api in (True, False) if stack == "celery"]
    cases.append({"stack": stack, "python_version": choices(QUESTIONS["python_version"])[-1]})
    folders = [renderer.render(case).write(tmp_path / str(number)) for number, case in enumerate(cases)]

    uv = os.environ.get("UV") or shutil.which("uv")
    assert uv, "the type check needs uv to install what a service imports: run the tests by `sh scripts/test.sh`"
    environment = tmp_path / "environment"
    run([uv, "venv", "--quiet", "--python", sys.executable, str(environment)], tmp_path)
    projects = [str(folder / "pyproject.toml") for folder in folders[: len(folders) - 1]]
    wanted = [argument for project in projects for argument in ("-r", project, "--group", f"{project}:dev")]
    run([uv, "pip", "install", "--quiet", "--python", str(environment), *wanted], tmp_path)

    for folder, case in zip(folders, cases, strict=True):
        run(["ty", "check", "--python", str(environment), "--output-format", "concise"], folder, note=str(case))


def run(command: Sequence[str], folder: Path, note: str = "") -> None:
    """Fail with the whole output, or with the first lines of a long one."""
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        shown = done.stdout.splitlines()
        pytest.fail("\n".join([f"{' '.join(command[:2])} {note}", *shown[:40], f"({len(shown)} lines)"]), pytrace=False)
