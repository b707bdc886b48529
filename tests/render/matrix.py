"""Every combination of answers, rendered in seconds: each file once for each distinct set of the answers that it reads.

A `copier copy` takes 1.5 s, and there are thousands of combinations. But a file's path and text name the answers on
which they depend, so what they render to for one set of these holds for all combinations that share it. Copier's own
questions and Jinja environment do the work, on a plain export; test_copier.py compares with the stock command.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

from copier._main import Worker  # private names of Copier, whose minor version pyproject.toml pins
from copier._user_data import AnswersMap, Question
from jinja2 import Template, meta

from .rendering import Answers, Service, answers_to, pairs

RECORD = "_copier_answers"


@dataclass(frozen=True)
class Jinja:
    """A compiled text, with the names of the answers that it reads."""

    template: Template
    reads: frozenset[str]
    includes: bool


class File:
    """One file of the template: what it renders to, for each distinct set of the answers that it reads."""

    def __init__(self, source: Path, parts: Sequence[Jinja], text: Jinja | bytes) -> None:
        self.source = source
        self.path_reads = frozenset[str]().union(*(part.reads for part in parts))
        self.reads = sorted(self.path_reads | text.reads if isinstance(text, Jinja) else self.path_reads)
        self._parts = parts
        self._text = text
        self._key = itemgetter(*self.reads) if self.reads else lambda _: None
        self._rendered: dict[Any, tuple[str, bytes] | None] = {}

    @property
    def plain(self) -> bool:
        """Copied as it is."""
        return isinstance(self._text, bytes)

    @property
    def constant(self) -> bool:
        """Rendered, though its text reads no answer and includes no file."""
        return isinstance(self._text, Jinja) and not self._text.reads and not self._text.includes

    @property
    def paths(self) -> set[str]:
        """Where it has been rendered to."""
        return {path for path, _ in filter(None, self._rendered.values())}

    def render(self, answers: Answers) -> tuple[str, bytes] | None:
        """Its path in the service and its content, or nothing where its layer does not apply."""
        key = self._key(answers)
        if key not in self._rendered:
            self._rendered[key] = self._render(thawed({name: answers[name] for name in self.reads}))
        return self._rendered[key]

    def _render(self, answers: Answers) -> tuple[str, bytes] | None:
        parts = [part.template.render(answers) for part in self._parts]
        if not all(parts):
            return None
        content = self._text if isinstance(self._text, bytes) else self._text.template.render(answers).encode()
        return Path(*parts).as_posix(), content


def frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((name, frozen(each)) for name, each in value.items())
    return tuple(value) if isinstance(value, list) else value


def thawed(answers: Answers) -> dict[str, Any]:
    found = {name: list(value) if isinstance(value, tuple) else value for name, value in answers.items()}
    if RECORD in answers:
        found[RECORD] = thawed(dict(answers[RECORD]))
    return found


class Matrix:
    """All combinations of answers to one exported template; questions that take any text keep their default.

    A file that holds all answers as data has those of the default service, or no two would be the same; of `render` it
    has its own. The answers file is left out (test_copier.py looks at it).
    """

    def __init__(self, template: Path, like: "Matrix | None" = None) -> None:
        """With `like`, the covering combinations of another matrix, and what it has compiled."""
        self._template = template
        self._worker = Worker(str(template), defaults=True)
        self._constants = {name: value for name, value in self._worker._render_context().items() if name[0] == "_"}
        self._asked: dict[Any, list[tuple[bool, Any]]] = {}
        self._texts: dict[str, Jinja] = {}
        self._sources: dict[tuple[Path, bytes], File] = dict(like._sources) if like else {}
        self.questions = self._worker.template.questions_data
        root = self._worker.template_copy_root
        paths = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
        files = [self._file(path, (root / path).read_bytes()) for path in paths]
        self.files = [file for file in files if "_copier_conf" not in file.reads]
        self._like = like

    @cached_property
    def combinations(self) -> Sequence[Answers]:
        """All, computed answers included."""
        if self._like and self._like.questions == self.questions:
            return self._like.covering
        [default] = self._combinations({}, everything=False)
        return [{**answers, RECORD: default[RECORD]} for answers in self._combinations({})]

    def __iter__(self) -> Iterator[Service]:
        return map(self._service, self.combinations)

    def render(self, answers: Answers) -> Service:
        """One service, with defaults for what is not given. A wrong answer raises ValueError in Copier's words."""
        [combination] = self._combinations(answers, everything=False)
        return self._service(combination)

    def sources(self, service: Service) -> dict[str, File]:
        """The file of the template from which each of a service comes."""
        answers = {name: frozen(value) for name, value in service.answers.items()}
        return {rendered[0]: file for file in self.files if (rendered := file.render(answers))}

    def each(self, *patterns: str) -> list[Service]:
        """One service for each set of paths with distinct contents of those that match: it stands for all."""
        assert self.contents  # so that it is known where each file goes
        reads = set()
        for file in self.files:
            matching = any(fnmatchcase(path, pattern) for path in file.paths for pattern in patterns)
            reads |= set(file.reads if matching else file.path_reads)
        distinct = {tuple(answers[name] for name in reads): answers for answers in reversed(self.combinations)}
        return [self._service(answers) for answers in distinct.values()]

    @cached_property
    def contents(self) -> dict[tuple[str, bytes], Answers]:
        """Each distinct file by path and content, with answers that bring it."""
        found: dict[tuple[str, bytes], Answers] = {}
        for file in self.files:
            for answers in self.combinations:
                if rendered := file.render(answers):
                    found.setdefault(rendered, answers)
        return found

    @cached_property
    def covering(self) -> list[Answers]:
        """Few combinations in which each choice, taken or not, meets every choice of the other questions."""
        known = [(set(pairs(answers)), answers) for answers in self.combinations]
        missing = set[Any]().union(*(met for met, _ in known))
        chosen: list[Answers] = []
        while missing:
            wanted = min(missing, key=repr)
            candidates = [each for each in known if wanted in each[0]]
            met, answers = max(candidates, key=lambda each: len(each[0] & missing))
            chosen.append(answers)
            missing -= met
        return chosen

    def reads(self, name: str) -> set[str]:
        """The answers on which a question depends: by its default, its choices, or whether it is asked."""
        return set().union(*map(self._reads, _texts(self.questions[name]))) - {name}

    def _service(self, answers: Answers) -> Service:
        return Service(thawed(answers), dict(filter(None, (file.render(answers) for file in self.files))))

    def _file(self, path: Path, content: bytes) -> File:
        if (path, content) not in self._sources:
            rendered = path.suffix == self._worker.template.templates_suffix
            parts = [self._compiled(part) for part in (path.with_suffix("") if rendered else path).parts]
            text = self._compiled(content.decode()) if rendered else content
            self._sources[path, content] = File(path, parts, text)
        return self._sources[path, content]

    def _compiled(self, text: str) -> Jinja:
        if text not in self._texts:
            template = self._worker.jinja_env.from_string(text)
            self._texts[text] = Jinja(template, frozenset(self._reads(text)), "{% include" in text)
        return self._texts[text]

    def _reads(self, text: str) -> set[str]:
        """The answers that a text names, or what it includes."""
        tree = self._worker.jinja_env.parse(text)
        included = [(self._template / name).read_text() for name in filter(None, meta.find_referenced_templates(tree))]
        named = meta.find_undeclared_variables(tree) & {*self.questions, RECORD, "_copier_conf"}
        return named.union(*map(self._reads, included))

    def _combinations(self, given: Answers, *, everything: bool = True) -> Sequence[Answers]:
        found: list[dict[str, Any]] = [{RECORD: ()}]
        for name, question in self.questions.items():
            reads = sorted(self.reads(name))
            values = [given[name]] if name in given else answers_to(question) if everything else []
            found = [
                {**answers, name: value, RECORD: answers[RECORD] + (((name, value),) if asked else ())}
                for answers in found
                for asked, value in self._accepted(
                    name, values, {read: answers[read] for read in reads if read in answers}
                )
            ]
        return found

    def _accepted(self, name: str, values: Sequence[Any], reads: Answers) -> list[tuple[bool, Any]]:
        """Of these values those that Copier accepts after the answers that the question reads; of none the default.

        Each with whether the question is asked, which is when the answer is recorded.
        """
        key = (name, *map(frozen, values), *reads.items())
        if key not in self._asked:
            self._asked[key] = [(asked, frozen(value)) for asked, value in self._accept(name, values, thawed(reads))]
        return self._asked[key]

    def _accept(self, name: str, values: Sequence[Any], reads: Answers) -> list[tuple[bool, Any]]:
        question = Question(
            var_name=name,
            answers=AnswersMap(),
            context={**self._constants, **reads},
            jinja_env=self._worker.jinja_env,
            **self.questions[name],
        )
        asked = question.get_when()
        if not values or (not asked and len(values) > 1):
            return [(asked, question.get_default())]
        accepted, refusals = [], []
        for value in values:
            try:
                answer = question.parse_answer(value)
                question.validate_answer(answer)
                accepted.append((asked, answer))
            except ValueError as refusal:
                refusals.append(refusal)
        if not accepted:
            raise refusals[0]
        return accepted


def _texts(value: Any) -> Iterator[str]:
    """Every text in a question, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
