"""The questions of the template, and a rendered service in memory."""

import itertools
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

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
    """A rendered service, kept in memory: all answers, computed ones included, and the bytes of each file by path."""

    answers: Answers
    files: Mapping[str, bytes] = field(repr=False)

    @property
    def label(self) -> str:
        return label(self.answers)

    def text(self, path: str) -> str:
        return self.files[path].decode()

    def python(self) -> dict[str, bytes]:
        return {path: content for path, content in self.files.items() if path.endswith(".py")}

    def write(self, folder: Path) -> Path:
        for path, content in self.files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        return folder


def label(answers: Answers) -> str:
    """The answers that are no text of one's own."""
    return " ".join(f"{name}={value}" for name, value in answers.items() if choices(RECORDED.get(name, {})))


def choices(question: Mapping[str, Any]) -> list[Any]:
    """The values a question with choices (or yes and no) accepts."""
    if question.get("type") == "bool":
        return [True, False]
    offered = question.get("choices", [])
    values = list(offered.values()) if isinstance(offered, dict) else list(offered)
    return [value["value"] if isinstance(value, dict) else value for value in values]


def answers_to(question: Mapping[str, Any]) -> list[Any]:
    """Everything that can be answered to a question with choices: of several, every subset."""
    values = choices(question)
    if not question.get("multiselect"):
        return values
    return [[*subset] for size in range(len(values) + 1) for subset in itertools.combinations(values, size)]


def pairs(answers: Answers) -> Iterator[tuple[Any, Any]]:
    """Each two choices to different questions; where several may be chosen, each is a question of yes or no."""
    factors: list[tuple[str, Any]] = []
    for name, question in RECORDED.items():
        if question.get("multiselect"):
            factors += [(f"{name}:{choice}", choice in answers[name]) for choice in choices(question)]
        elif choices(question):
            factors.append((name, answers[name]))
    return itertools.combinations(factors, 2)


def export(folder: Path) -> Path:
    """Copy the working tree, as git would commit it, to `folder`."""
    listed = subprocess.check_output(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT)
    for name in filter(None, listed.decode().split("\0")):
        source, target = ROOT / name, folder / name
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return folder
