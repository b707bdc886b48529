"""The files of a service agree with each other: what one speaks of, another has, whatever is answered."""

import ast
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import PurePosixPath

from .matrix import Matrix
from .rendering import Service

PACKAGE = "src/my_service"
TOLD = ("*.md", "*.yaml", "*.yml", "*.toml", "*.example")
READ_BY_LIBRARIES = re.compile(r"OTEL_\w+|TEMPORAL_TLS_\w+")


def contradictions(matrix: Matrix) -> Iterator[str]:
    """Each once, with the answers of one service that has it."""
    for check, patterns in (
        (_modules, ["*.py"]),
        (_queues, ["*/queues.py", "*/jobs/*", *TOLD]),
        (_settings, ["*/settings.py", *TOLD]),
        (_commands, ["*/cli/*", "*/__init__.py", *TOLD]),
        (_places, ["*"]),
    ):
        told: set[str] = set()
        for service in matrix.each(*patterns):
            new = set(check(service)) - told
            yield from (f"{problem} ({service.label})" for problem in sorted(new))
            told |= new


def _modules(service: Service) -> Iterator[str]:
    for path, content in service.python().items():
        for places in imported(path, content):
            if service.files.keys().isdisjoint(places):
                yield f"{path} imports {places[0]}, which is not there"


@cache
def imported(path: str, content: bytes) -> list[tuple[str, ...]]:
    """For each import of the service's own modules, the paths of which one must exist."""
    found = []
    for node in ast.walk(ast.parse(content)):
        if not isinstance(node, ast.ImportFrom):
            continue
        names = (node.module or "").split(".")
        if node.level or names[0] == PurePosixPath(PACKAGE).name:
            folder = PurePosixPath(path).parents[node.level - 1] if node.level else PurePosixPath(PACKAGE).parent
            module = folder.joinpath(*names)
            for alias in node.names:
                places = (module, module / alias.name)
                found.append(tuple(f"{place}{end}" for place in places for end in (".py", "/__init__.py")))
    return found


def _queues(service: Service) -> Iterator[str]:
    queues = re.findall(r'\bQueue\("(\w+)"', service.text(f"{PACKAGE}/queues.py"))
    for path in service.files:
        if path.startswith(f"{PACKAGE}/jobs/"):
            named = re.findall(r'\bqueue="(\w+)"', service.text(path))
        else:
            named = _told(service, path, r"--queue[=\"', ]+([a-z]\w*)")
        yield from (f"{path} names queue {name}, which queues.py has not" for name in named if name not in queues)


def _settings(service: Service) -> Iterator[str]:
    defaults = settings(service.files[f"{PACKAGE}/settings.py"])
    for name, value in _told(service, ".env.example", r"(?m)^#? ?([A-Z_]+)=(.*)"):
        if name.lower() not in defaults:
            yield f".env.example names {name}, which settings.py has not"
        elif defaults[name.lower()] not in (None, value):
            yield f".env.example has {name}={value}, but settings.py {defaults[name.lower()]}"
    given = {name.lower() for path in service.files for name in _told(service, path, r"\$\{([A-Z_]+)")}
    for path in service.files:
        for name in _told(service, path, r"`([A-Z]+_[A-Z_]+)`"):
            if name.lower() not in {*defaults, *given} and not READ_BY_LIBRARIES.fullmatch(name):
                yield f"{path} speaks of {name}, which settings.py has not"


@cache
def settings(source: bytes) -> dict[str, str | None]:
    """Each setting, with its default as the environment would give it; None if that is no plain value."""
    found: dict[str, str | None] = {}
    [fields] = [
        node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "Settings"
    ]
    for node in fields:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            value = node.value
            while isinstance(value, ast.Call):  # Field(Path("var/run"), …)
                value = value.args[0]
            known = isinstance(value, ast.Constant) and value.value is not None
            found[node.target.id] = str(value.value) if known else None
    return found


def _commands(service: Service) -> Iterator[str]:
    commands: set[str] = set()
    for path in service.files:
        if path.startswith(f"{PACKAGE}/cli/"):
            source = service.text(path)
            commands |= {
                *re.findall(r"(?m)^@app\.command\(\)\ndef (\w+)", source),
                *re.findall(r', name="([\w-]+)"', source),
            }
            optional = re.findall(r"(?m)^ +@app\.command\(\)\n +def (\w+)", source)  # where their package is there
            commands |= {name for name in optional if f"{PACKAGE}/{name}/__init__.py" in service.files}
    for path in service.files:
        for name in _told(service, path, r"(?m)(?:`|\brun |^)my-service ([a-z][a-z-]*)"):
            if name not in commands:
                yield f"{path} tells to run my-service {name}, which is no command"


def _places(service: Service) -> Iterator[str]:
    """Files, folders and headings to which a page leads."""
    there = _with_folders(frozenset(service.files))
    for path in service.files:
        here = PurePosixPath(path).parent
        if not path.endswith(".md"):
            continue
        for link in _told(service, path, r"\]\((?!https?:)([^)]+)\)"):
            target, _, heading = link.partition("#")
            page = os.path.normpath(here / target) if target else path
            titles = _told(service, page, r"(?m)^#+ (.*)") if page in service.files else []
            anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
            if page not in there or (heading and heading not in anchors):
                yield f"{path} links to {link}, which is not there"
        for named in _told(service, path, r"`([\w./-]+(?:/|\.(?:py|md|ya?ml|toml|json|lua|example)))`"):
            if there.isdisjoint(
                os.path.normpath(base / named) for base in (here, PurePosixPath(), PurePosixPath(PACKAGE))
            ):
                yield f"{path} speaks of {named}, which is not there"


@cache
def _with_folders(paths: frozenset[str]) -> set[str]:
    """Files also by their names alone."""
    return {each for path in map(PurePosixPath, paths) for each in (str(path), path.name, *map(str, path.parents))}


def _told(service: Service, path: str, pattern: str) -> list:
    """What a page or a data file says; code is for the linters."""
    return [] if path.endswith(".py") else _found(service.files[path], pattern)


@cache
def _found(content: bytes, pattern: str) -> list:
    return re.findall(pattern, content.decode())
