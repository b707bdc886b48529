"""The files of a service agree with each other: what one speaks of, another has, whatever is answered.

Each distinct file says once what it offers and what it needs; a service is right if every need finds an offer.
"""

import ast
import itertools
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import PurePosixPath

from .matrix import Matrix

PACKAGE = "src/my_service"
READ_BY_LIBRARIES = re.compile(r"OTEL_\w+|TEMPORAL_TLS_\w+")

Need = tuple[frozenset[str], str]
"""Offers of which one must be there, and what is wrong if none is."""


def contradictions(matrix: Matrix) -> Iterator[str]:
    """Each once, with the answers of one service that has it."""
    told: set[str] = set()
    of_python = ((service, True) for service in matrix.each("*.py"))
    for service, python in itertools.chain(of_python, ((service, False) for service in matrix)):
        offered = set().union(*(offers(*file) for file in service.files.items()))
        for command, module in _optional(service.files[f"{PACKAGE}/cli/__init__.py"]):
            if offered & {f"file {module}.py", f"file {module}/__init__.py"}:
                offered.add(f"command {command}")
        for file in service.files.items():
            for wanted, problem in needs(*file) if file[0].endswith(".py") == python else ():
                if problem not in told and wanted.isdisjoint(offered):
                    told.add(problem)
                    yield f"{file[0]} {problem} ({service.label})"


@cache
def offers(path: str, content: bytes) -> frozenset[str]:
    """Paths, also of folders and by the name alone; headings, queues, settings and commands."""
    here = PurePosixPath(path)
    found = {f"file {place}" for place in (path, here.name, *here.parents)}
    if path.endswith(".md"):
        for title in re.findall(r"(?m)^#+ (.*)", content.decode()):
            anchor = re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
            found.add(f"heading {path}#{anchor}")
    elif path == f"{PACKAGE}/queues.py":
        found |= {f"queue {name}" for name in re.findall(r'\bQueue\("(\w+)"', content.decode())}
    elif path == f"{PACKAGE}/settings.py":
        found |= _settings(content)
    elif path.startswith(f"{PACKAGE}/cli/"):
        commands = re.findall(r'(?m)^@app\.command\(\)\ndef (\w+)|^app\.add_typer\(.*name="([\w-]+)"', content.decode())
        found |= {f"command {name or group}" for name, group in commands}
    elif path.endswith((".yaml", ".yml")):
        found |= {f"setting {name}" for name in re.findall(r"\$\{([A-Z_]+)", content.decode())}
    return frozenset(found)


def _settings(content: bytes) -> set[str]:
    """Each with its default as the environment would give it, if that is a plain value; otherwise with any."""
    found: set[str] = set()
    classes = [node for node in ast.parse(content).body if isinstance(node, ast.ClassDef) and node.name == "Settings"]
    for node in classes[0].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            value = node.value
            while isinstance(value, ast.Call) and value.args:  # Field(Path("var/run"), …)
                value = value.args[0]
            plain = isinstance(value, ast.Constant) and value.value is not None
            name = f"setting {node.target.id.upper()}"
            found |= {name, f"{name}={value.value if plain else '*'}"}
    return found


@cache
def _optional(content: bytes) -> list[tuple[str, str]]:
    """Commands that are there if a module is: `if find_spec("..api", __package__)` and what stands below it."""
    pattern = r'(?ms)^if [^\n]*find_spec\("\.\.([\w.]+)".*?(?: def (\w+)|add_typer\([^\n]*name="([\w-]+)")'
    found = re.findall(pattern, content.decode())
    return [(name or group, f"{PACKAGE}/{module.replace('.', '/')}") for module, name, group in found]


@cache
def needs(path: str, content: bytes) -> list[Need]:
    """Modules that are imported; queues, settings, commands, files and headings that are named."""
    text = content.decode()
    if path.endswith(".py"):
        found = [({f"file {place}" for place in places}, f"imports {places[0]}") for places in imported(path, content)]
        queues = re.findall(r'\bqueue="(\w+)"', text) if path.startswith(f"{PACKAGE}/jobs/") else []
    else:
        found = [*_named(path, text)]
        queues = re.findall(r"--queue[=\"', ]+([a-z]\w*)", text)
    found += [({f"queue {name}"}, f"names queue {name}") for name in queues]
    return [(frozenset(wanted), f"{problem}, which is not there") for wanted, problem in found]


def _named(path: str, text: str) -> Iterator[tuple[set[str], str]]:
    here = PurePosixPath(path).parent
    if path == ".env.example":
        for name, value in re.findall(r"(?m)^#? ?([A-Z_]+)=(.*)", text):
            setting = f"setting {name}="
            yield {f"{setting}{value}", f"{setting}*"}, f"gives {name}={value} as a setting's default"
    for name in re.findall(r"(?m)(?:`|\brun |^)my-service ([a-z][a-z-]*)", text):
        yield {f"command {name}"}, f"tells to run my-service {name}"
    if not path.endswith(".md"):
        return
    for name in re.findall(r"`([A-Z]+_[A-Z_]+)`", text):
        if not READ_BY_LIBRARIES.fullmatch(name):
            yield {f"setting {name}"}, f"speaks of the setting {name}"
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        target, _, heading = link.partition("#")
        page = os.path.normpath(here / target) if target else path
        yield {f"heading {page}#{heading}" if heading else f"file {page}"}, f"links to {link}"
    for name in re.findall(r"`([\w./-]+(?:/|\.(?:py|md|ya?ml|toml|json|lua|example)))`", text):
        places = (here / name, PurePosixPath(name), PurePosixPath(PACKAGE, name))
        yield {f"file {os.path.normpath(place)}" for place in places}, f"speaks of {name}"


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
