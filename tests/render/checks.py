"""What must hold whatever is answered: each check yields, in words, what a reader would stumble over.

A check looks at each distinct content once, or once at each distinct set of the files that it compares (agreement.py).
test_matrix.py runs them on all combinations, test_mistakes.py on mistakes that they must find.
"""

import itertools
import json
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .agreement import imported
from .matrix import Matrix
from .rendering import QUESTIONS, Answers, Service, answers_to, label

Contents = Mapping[tuple[str, bytes], Answers]
PARSERS: dict[str, Callable[[str], Any]] = {
    ".json": json.loads,
    ".toml": tomllib.loads,
    ".yaml": lambda text: list(yaml.safe_load_all(text)),
    ".yml": lambda text: list(yaml.safe_load_all(text)),
}
TEMPLATE_OF_ITS_OWN = "{# All pages of the console"
LEFTOVER = re.compile(r"\{%[-+]? \w|\{#[- ]|\{\{[^}\n]*\b(" + "|".join(QUESTIONS) + r"|_copier_\w+)\b")


def unclean(contents: Contents) -> Iterator[str]:
    """Stray blanks, code of the template, data that does not parse."""
    for (path, content), answers in contents.items():
        found = blemishes(content.decode())
        try:
            PARSERS.get(Path(path).suffix, str)(content.decode())
        except (ValueError, yaml.YAMLError) as error:
            found.append(str(error))
        yield from (f"{path}: {blemish} ({label(answers)})" for blemish in found)


def blemishes(text: str) -> list[str]:
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


def unformatted(contents: Contents, folder: Path) -> Iterator[str]:
    """What ruff says of the Python files, by the service's own rules, which no answer changes."""
    rules = {
        json.dumps(tomllib.loads(text.decode())["tool"]["ruff"]): text
        for path, text in contents
        if path == "pyproject.toml"
    }
    [only] = rules.values()
    (folder / "pyproject.toml").write_bytes(only)
    for number, (path, content) in enumerate(contents):
        if path.endswith(".py"):
            Service({}, {path: content}).write(folder / str(number))
    for command in (["format", "--check"], ["check", "--output-format=concise"]):
        yield from complaints(["ruff", *command, "--no-cache", "."], folder)


def overlaps(matrix: Matrix) -> Iterator[str]:
    """Files that two layers write in one service: the later would silently win."""
    found = set()
    for answers in matrix.combinations:
        owners: dict[str, Path] = {}
        for file in matrix.files:
            if rendered := file.render(answers):
                other = owners.setdefault(rendered[0], file.source)
                if other is not file.source:
                    found.add(f"{other} and {file.source} both write {rendered[0]}")
    yield from sorted(found)


def idle(matrix: Matrix) -> Iterator[str]:
    """Questions that nothing reads, files that are rendered for nothing, services that differ in answers alone."""
    read = set[str]().union(*(file.reads for file in matrix.files), *map(matrix.reads, matrix.questions))
    yield from (
        f"nothing reads {name}"
        for name in matrix.questions
        if name not in read and len(answers_to(matrix.questions[name])) != 1
    )
    yield from (f"{file.source} reads no answer: drop .jinja" for file in matrix.files if file.constant)
    yield from (
        f"{file.source} is in no service" for file in matrix.files if not any(map(file.render, matrix.combinations))
    )
    same: dict[Any, Answers] = {}
    for answers in matrix.combinations:
        other = same.setdefault(tuple(file.render(answers) for file in matrix.files), answers)
        if other is not answers:
            differing = {name: (other[name], answers[name]) for name in answers if other[name] != answers[name]}
            yield f"these answers make no difference: {differing}"


def modules(services: Iterable[Service]) -> list[tuple[Service, list[str]]]:
    """Services, and of each the modules to look at: so that each version meets every version of a module it imports.

    What ty says of a module depends on no other: what it exports has its types written down.
    """
    met: set[Any] = set()
    chosen = []
    for service in services:
        meetings = {path: set(_meetings(service, path)) for path in service.python()}
        if new := [path for path in meetings if not meetings[path] <= met]:
            chosen.append((service, new))
            met.update(*(meetings[path] for path in new))
    return chosen


def _meetings(service: Service, path: str) -> Iterator[Any]:
    content = service.files[path]
    yield path, content
    for place in itertools.chain.from_iterable(imported(path, content)):
        if place in service.files:
            yield path, content, place, service.files[place]


def untyped(chosen: Sequence[tuple[Service, list[str]]], environment: Path, folder: Path) -> list[str]:
    """What ty says of these modules, on the first service's Python: in one run, whose start-up is most of its time.

    For that the services get packages of different names.
    """
    chosen[0][0].write(folder)
    checked: list[str] = []
    for number, (service, paths) in enumerate(chosen):
        renamed = {path: _renamed(path, number) for path in service.python()}
        python = {path: service.text(path).replace("my_service", f"service_{number}").encode() for path in renamed}
        Service({}, {renamed[path]: text for path, text in python.items()}).write(folder)
        checked += [renamed[path] for path in paths]
    return complaints(["ty", "check", "--python", str(environment), "--output-format=concise", *checked], folder)


def _renamed(path: str, number: int) -> str:
    return path.replace("src/my_service/", f"src/service_{number}/").replace("tests/", f"tests/{number}/")


def complaints(command: Sequence[str], folder: Path) -> list[str]:
    """The lines that a command prints if it fails."""
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.stdout.splitlines() or [f"{command[0]} exits {done.returncode}"] if done.returncode else []
