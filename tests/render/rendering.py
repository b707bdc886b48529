"""Render the template hundreds of times in one process, so that each commit can try every combination of answers.

A `copier copy` takes 1.5 s: most of it is start-up, git, and compiling the same Jinja sources again. Here the working
tree is exported to a plain folder, Copier is told that there is no git, and each Jinja source is compiled once: some
80 ms a service. That patches private names of Copier, whose minor version pyproject.toml pins; RENDER_STOCK=1 leaves it
as it is, and test_copier.py compares both.
"""

import itertools
import os
import shutil
import subprocess
from collections.abc import Generator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import copier
import jinja2
import pytest
import yaml
from copier._jinja_ext import get_yield_context
from jinja2.nativetypes import NativeEnvironment

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS: dict[str, dict[str, Any]] = {
    name: question
    for name, question in yaml.safe_load((ROOT / "copier.yml").read_text()).items()
    if not name.startswith("_")
}
RECORDED = {name: question for name, question in QUESTIONS.items() if question.get("when", True)}
ANSWERS_FILE = ".copier-answers.yml"

Answers = Mapping[str, Any]


@dataclass(frozen=True)
class Service:
    """A rendered service, kept in memory: its answers and the bytes of each file by path."""

    answers: Answers
    files: Mapping[str, bytes] = field(repr=False)

    @property
    def label(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.answers.items()) or "defaults"

    def python(self) -> dict[str, bytes]:
        return {path: content for path, content in self.files.items() if path.endswith(".py")}

    def write(self, folder: Path) -> Path:
        for path, content in self.files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        return folder


def choices(question: Mapping[str, Any]) -> list[Any]:
    """The values a question with choices (or yes and no) accepts."""
    if question.get("type") == "bool":
        return [True, False]
    offered = question.get("choices", [])
    values = list(offered.values()) if isinstance(offered, dict) else list(offered)
    return [value["value"] if isinstance(value, dict) else value for value in values]


def usual(question: Mapping[str, Any]) -> Any:
    """The default, with the HTTP API."""
    default = question["default"]
    computed = question.get("multiselect") and isinstance(default, str)
    return NativeEnvironment().from_string(default).render(api=True) if computed else default


Factor = tuple[str, Any]
"""A question, or a question and one of the choices of which several may be taken."""
Item = tuple[int, int]
"""A factor and a value of it, by number."""

IMPOSSIBLE: list[dict[Factor, Any]] = [
    {("api", None): False, ("monitoring", "prometheus"): True},
    *({("stack", None): stack, ("broker", None): "rabbitmq"} for stack in ("arq", "temporal")),
    {("stack", None): "arq", ("monitoring", "flower"): True},
    {("stack", None): "temporal", ("monitoring", "flower"): True},
]


def combinations() -> list[Answers]:
    """Any three answers to different questions meet in one of these; for the queues, every subset that holds `default`.

    Where else several may be chosen, each choice counts as a question of yes or no. The Python version, which changes
    two lines, meets each subset of queues on each stack and no more. All combinations would be thousands.
    """
    every: dict[Factor, list[Any]] = {}
    for name, question in RECORDED.items():
        values = choices(question)
        if name == "queues":
            subsets = itertools.product([True, False], repeat=len(values))
            picked = [[value for value, taken in zip(values, subset, strict=True) if taken] for subset in subsets]
            every[name, None] = [subset for subset in picked if "default" in subset]
        elif question.get("multiselect"):
            every.update({(name, value): [True, False] for value in values})
        elif len(values) > 1:
            every[name, None] = values
    factors = sorted(every, key=lambda factor: -len(every[factor]))  # the largest first: fewer are needed
    values = [every[factor] for factor in factors]
    items = [[(factor, value) for value in range(len(values[factor]))] for factor in range(len(values))]
    barred = {
        frozenset((factors.index(factor), every[factor].index(value)) for factor, value in case.items())
        for case in IMPOSSIBLE
    }
    triples = (triple for three in itertools.combinations(items, 3) for triple in itertools.product(*three))
    loose = {"python_version", "queues"}
    wanted = (triple for triple in triples if not loose < {factors[factor][0] for factor, _ in triple} - {"stack"})
    missing = {triple for triple in wanted if not any(case <= set(triple) for case in barred)}
    found: list[Answers] = []
    while missing:
        chosen = _completed(min(missing), items, missing, barred)
        missing -= set(itertools.combinations(chosen, 3))
        found.append(_answers({factors[factor]: values[factor][value] for factor, value in chosen}))
    return found


def _completed(
    begun: Sequence[Item], items: Sequence[Sequence[Item]], missing: Set[tuple[Item, ...]], barred: Set[frozenset[Item]]
) -> list[Item]:
    """A value of each factor, these among them; the others so that they bring most of what is missing."""
    chosen = list(begun)

    def brings(item: Item) -> int:
        return sum(tuple(sorted((item, *pair))) in missing for pair in itertools.combinations(chosen, 2))

    for values in items:
        if not set(values) & set(chosen):
            possible = [item for item in values if not any(case <= {*chosen, item} for case in barred)]
            chosen.append(max(possible, key=brings))
    return sorted(chosen)


def _answers(chosen: Mapping[Factor, Any]) -> Answers:
    answers: dict[str, Any] = {}
    for (name, choice), value in chosen.items():
        if choice is None:
            answers[name] = value
        else:
            answers.setdefault(name, []).extend([choice] if value else [])
    if answers["stack"] != "celery":
        del answers["broker"]  # not asked
    return {name: answers[name] for name in RECORDED if name in answers}


def export(folder: Path) -> Path:
    """Copy the working tree, as git would commit it, to `folder`."""
    listed = subprocess.check_output(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT)
    for name in filter(None, listed.decode().split("\0")):
        source, target = ROOT / name, folder / name
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return folder


class Renderer:
    """Renders one exported template; the same bytes of different services are held once."""

    def __init__(self, template: Path) -> None:
        self.template = template
        self._held: dict[bytes, bytes] = {}

    def render(self, answers: Answers) -> Service:
        """Raises what Copier raises for a bad answer; as a user without --trust would."""
        with TemporaryDirectory() as scratch, _fast():
            folder = Path(scratch) / "service"
            try:
                copier.run_copy(str(self.template), folder, data=dict(answers), defaults=True, quiet=True, unsafe=False)
            except Exception as refusal:
                refusal.add_note(f"left behind: {sorted(map(str, folder.rglob('*')))}")
                raise
            found = sorted(path for path in folder.rglob("*") if path.is_file())
            contents = {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
        return Service(answers, {path: self._held.setdefault(content, content) for path, content in contents.items()})


_compiled: dict[tuple[str, str | None, str | None], Any] = {}
_compile = jinja2.Environment.compile


def _compile_once(
    self: jinja2.Environment,
    source: Any,
    name: str | None = None,
    filename: str | None = None,
    raw: bool = False,
    defer_init: bool = False,
) -> Any:
    if raw or not isinstance(source, str):
        return _compile(self, source, name, filename, raw, defer_init)
    context = get_yield_context(self)  # what Copier's extension resets on each compilation
    context.yield_name = context.yield_iterable = None
    key = (source, name, filename)
    if key not in _compiled:
        _compiled[key] = _compile(self, source, name, filename, raw, defer_init)
    return _compiled[key]


@contextmanager
def _fast() -> Generator[None]:
    if os.environ.get("RENDER_STOCK"):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("copier._main.is_git_available", lambda: False)
        patch.setattr("copier._template.is_git_available", lambda: False)
        patch.setattr(jinja2.Environment, "compile", _compile_once)
        yield
