"""Each mistake that a maintainer may make in the template is found: planted in a copy, looked for in the covering set.

What is found in so few combinations is found in the whole matrix, which has them within.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from . import checks
from .agreement import contradictions
from .matrix import Matrix
from .rendering import QUESTIONS, choices

PACKAGE = "template/{{src}}"
CELERY = "template/{{if_celery}}"
MONITORING = "template/{{if_prometheus}}"
END = ""

MISTAKES: dict[str, tuple[str, str, str | None, str]] = {  # file, text, what stands there instead, what is told
    "an unused import": (f"{PACKAGE}/health.py", "import threading\n", "import string\nimport threading\n", "F401"),
    "an undefined name": (f"{PACKAGE}/telemetry.py", END, "\nTHERE = nowhere\n", "F821"),
    "a mutable default": (f"{PACKAGE}/logs.py", END, "\n\ndef seen(names: list[str] = []) -> None: ...\n", "B006"),
    "imports in disorder": (
        f"{PACKAGE}/health.py",
        "import threading\nimport time\n",
        "import time\nimport threading\n",
        "I001",
    ),
    "no Python": (f"{PACKAGE}/engine.py", END, "\nclass :\n", "invalid-syntax"),
    "an unformatted line": (f"{PACKAGE}/logs.py", END, "LEVELS = { 'a':1 }\n", "would be reformatted"),
    "an unformatted line on one stack": (
        f"{PACKAGE}/queues.py.jinja",
        "    prefetch: int\n",
        "    prefetch:int\n",
        "would be reformatted",
    ),
    "a blank line too many": (
        f"{PACKAGE}/settings.py.jinja",
        "{% if api %}\n\n",
        "{% if api %}\n\n\n",
        "would be reformatted",
    ),
    "a space at the end of a line": ("template/README.md.jinja", END, "Two \nlines.\n", "trailing space"),
    "an end without a newline": ("template/.env.example.jinja", END, "# LEASE=24", "no newline"),
    "template code in a plain file": (f"{PACKAGE}/logs.py", END, 'SERVICE = "{{ project_slug }}"\n', "template code"),
    "YAML that is none": (f"{MONITORING}/prometheus.yml.jinja", END, "a: [\n", "prometheus.yml: while parsing"),
    "TOML that is none": ("template/pyproject.toml.jinja", '"httpx>=0.28",', '"httpx>=0.28', "pyproject.toml: "),
    "JSON that is none": (f"{MONITORING}/dashboard.json", END, ",\n", "dashboard.json: Extra data"),
    "a wrong type": (f"{PACKAGE}/health.py", END, '\nWRONG: int = "text"\n', "invalid-assignment"),
    "a wrong type on one stack": (f"{CELERY}/ops/workers.py", END, '\nWRONG: int = "text"\n', "invalid-assignment"),
    "an argument that is not taken": (f"{PACKAGE}/health.py", END, "\nbeat(1, 2)\n", "too-many-positional-arguments"),
    "a file missing in one layer": (
        f"{CELERY}/runtime/waiting.py",
        END,
        None,
        "runtime/waiting.py, which is not there",
    ),
    "a file in the wrong layer": (
        "template/{{if_api}}/dev/embedded.py",
        END,
        "",
        "both write src/my_service/dev/embedded.py",
    ),
    "a layer that nothing chooses": ("template/{{if_nothing}}/note.md", END, "Hello\n", "'if_nothing' is undefined"),
    "a question that nothing reads": (
        "copier.yml",
        END,
        "colour: {type: str, choices: [red, blue], default: red}\n",
        "nothing reads colour",
    ),
    "a layer without files": (
        "copier.yml",
        END,
        'if_green: {when: false, type: str, default: "{{ stack }}"}\n',
        "nothing reads if_green",
    ),
    "a choice without effect": (
        "copier.yml",
        '    "high     - soon',
        '    "other    - unread": other\n    "high     - soon',
        "make no difference",
    ),
    "a queue that a job has not": (
        f"{CELERY}/jobs/orders.py.jinja",
        'queue="{{ queue_urgent }}"',
        'queue="critical"',
        "names queue critical",
    ),
    "a wrong queue in Compose": (
        f"{MONITORING}/compose.yaml.jinja",
        "    command: [",
        '    x-worker: ["worker", "--queue", "bulk"]\n    command: [',
        "compose.yaml names queue bulk",
    ),
    "a wrong queue in the README": (
        "template/README.md.jinja",
        "--queue {{ queue_slow }}",
        "--queue low",
        "README.md names queue low",
    ),
    "a setting that does not exist": (
        "template/.env.example.jinja",
        "# RENEWAL=8",
        "# RENEW=8",
        ".env.example gives RENEW=8",
    ),
    "another default than the setting's": (
        "template/.env.example.jinja",
        "# RENEWAL=8",
        "# RENEWAL=9",
        ".env.example gives RENEWAL=9",
    ),
    "a page that knows another setting": (
        "template/README.md.jinja",
        "`STOP_GRACE`",
        "`STOP_TIME`",
        "speaks of the setting STOP_TIME",
    ),
    "a broken link": ("template/README.md.jinja", END, "[More](docs/more.md)\n", "links to docs/more.md"),
    "a link to no heading": (f"{MONITORING}/runbook.md.jinja", "(#jobsstalled)", "(#jobsstuck)", "links to #jobsstuck"),
    "a file that a page makes up": ("template/README.md.jinja", "`queues.py`", "`queue.py`", "speaks of queue.py"),
    "a command that does not exist": (
        "template/README.md.jinja",
        "{{ project_slug }} demo",
        "{{ project_slug }} try",
        "tells to run my-service try",
    ),
    "a command of a layer that is out": (
        "template/README.md.jinja",
        END,
        "Run `{{ project_slug }} api`.\n",
        "tells to run my-service api",
    ),
    "a file rendered for nothing": (f"{PACKAGE}/notes.py.jinja", END, "NOTE = 1\n", "drop .jinja"),
}


@pytest.fixture
def planted(template: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path, old, new, _ = MISTAKES[request.param]
    folder = tmp_path / "template"
    shutil.copytree(template, folder)
    file = folder / path
    if new is None:
        file.unlink()
        return folder
    text = file.read_text() if file.exists() else ""
    assert old in text
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text.replace(old, new, 1) if old else text + new)
    return folder


@pytest.mark.parametrize(
    ("planted", "told"), [(name, told) for name, (*_, told) in MISTAKES.items()], ids=[*MISTAKES], indirect=["planted"]
)
def test_a_mistake_is_found(
    planted: Path, told: str, matrix: Matrix, environment: Callable[[str], Path], tmp_path: Path
) -> None:
    complaints = complain(planted, matrix, environment, tmp_path)
    assert any(told in complaint for complaint in complaints)


def complain(template: Path, like: Matrix, environment: Callable[[str], Path], folder: Path) -> Iterator[str]:
    """All that test_matrix.py asks, in the order of its cost; the types of modules that are as before are known."""
    try:
        matrix = Matrix(template, like)
        new = {file: answers for file, answers in matrix.contents.items() if file not in like.contents}
    except UndefinedError as error:
        yield str(error)
        return
    (folder / "ruff").mkdir()
    yield from checks.unclean(new)
    yield from checks.unformatted(
        {file: {} for file in matrix.contents if file in new or file[0] == "pyproject.toml"}, folder / "ruff"
    )
    yield from checks.overlaps(matrix)
    yield from checks.idle(matrix)
    yield from contradictions(matrix)
    for stack in choices(QUESTIONS["stack"]):
        services = [service for service in matrix if service.answers["stack"] == stack]
        changed = [
            (service, [path for path in paths if (path, service.files[path]) in new])
            for service, paths in checks.modules(services)
        ]
        if changed := [(service, paths) for service, paths in changed if paths]:
            yield from checks.untyped(changed, environment(stack), folder / stack)
