"""Answers of earlier releases, mistaken ones, and an answers file that is not what Copier wrote.

What is not understood is refused before a file is touched: Copier alone would take the default, and with it render
another stack.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..render.rendering import ANSWERS_FILE, QUESTIONS, ROOT, choices
from .conftest import Start
from .leftovers import findings
from .updating import NEXT, RELEASES, Service, commit, copied, git, unpack

CHOICES = ROOT / "questions/choices.yml"
KNOWN = yaml.safe_load(CHOICES.read_text())
Edit = Callable[[str], str]


def test_the_list_of_known_answers_has_every_choice_of_now_and_of_each_release(tmp_path: Path) -> None:
    assert set(KNOWN) == {name for name, question in QUESTIONS.items() if question.get("choices")}
    for release in RELEASES:
        (tmp_path / release).mkdir()
        questions = yaml.safe_load((unpack(release, tmp_path / release) / "copier.yml").read_text())
        for name, known in KNOWN.items():
            assert set(choices(questions.get(name, {}))) <= set(known), f"{name} of {release}"
    for name, known in KNOWN.items():
        assert set(choices(QUESTIONS[name])) == set(known), "none is retired so far: a test of its own would say more"


def test_an_update_keeps_every_answer_of_the_first_release(start: Start) -> None:
    answers = {"project_name": "Order Desk", "queues": ["default", "bulk"], "api": False, "large_results": "database"}
    service = start("v0.1.0", **answers, python_version="3.12", description="It's ours", package="desk")
    before = service.answers()
    service.update()
    assert {**service.answers(), **before} == {**service.answers(), "_commit": "v0.1.0"}


def damaged(change: Edit) -> Callable[[Service], None]:
    def damage(service: Service) -> None:
        path = service.folder / ANSWERS_FILE
        path.write_text(change(path.read_text()))
        service.commit()

    return damage


def _without_answers_file(service: Service) -> None:
    (service.folder / ANSWERS_FILE).unlink()
    service.commit()


def _dirty(service: Service) -> None:
    (service.folder / "README.md").write_text("in the middle of something\n")


REFUSED: dict[str, tuple[Callable[[Service], None], dict[str, Any], str]] = {
    "misspelt --data": (
        lambda _: None,
        {"stak": "arq"},
        "The template does not ask for stak. It asks for project_name",
    ),
    "bad choice": (lambda _: None, {"stack": "rq"}, "Invalid choice for 'stack': 'rq' is not in ['celery', 'arq'"),
    "misspelt name in the file": (damaged(lambda text: text.replace("stack:", "stak:")), {}, "does not ask for stak"),
    "misspelt choice in the file": (damaged(lambda text: text.replace(": arq", ": arqq")), {}, "'arqq' is not in"),
    "answer taken out of the file": (
        damaged(lambda text: text.replace("stack: arq\n", "")),
        {},
        ".copier-answers.yml does not say which stack this service has. Take the file back",
    ),
    "no answers file": (_without_answers_file, {}, "Template not found"),
    "of a newer template": (
        damaged(lambda text: re.sub("_commit: .*", "_commit: v2000.0.0", text)),
        {},
        "Unknown revision: 'v2000.0.0'",
    ),
    "dirty": (_dirty, {}, "Destination repository is dirty; cannot continue. Please commit or stash"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_update_is_refused_in_words_and_nothing_is_overwritten(start: Start, case: str) -> None:
    damage, data, told = REFUSED[case]
    service = start("v0.2.0", stack="arq")
    damage(service)
    before, status = service.files(), git(service.folder, "status", "--porcelain")
    with pytest.raises(Exception, match=re.escape(told)):
        service.update(**data)
    assert (service.files(), git(service.folder, "status", "--porcelain")) == (before, status)


def test_a_downgrade_is_refused(start: Start) -> None:
    service = start(NEXT)
    before = service.files()
    with pytest.raises(Exception, match="Downgrades are not supported"):
        service.update(to="v0.3.0")
    assert service.files() == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text.replace(": arq", ": celery"), "says stack: celery; this service was not rendered with that"),
        (lambda text: text.replace("stack:", "stak:"), "says stak: arq;"),
        (lambda text: text.replace("- bulk\n", ""), "does not say - bulk, with which this service was rendered"),
        (lambda _: None, "is missing: no update can come"),
    ],
)
def test_doctor_sees_that_answers_are_not_those_of_the_service(start: Start, change: Any, told: str) -> None:
    service = start(NEXT, stack="arq")
    path = service.folder / ANSWERS_FILE
    if (text := change(path.read_text())) is None:
        path.unlink()
    else:
        path.write_text(text)
    [found] = findings(service)
    assert found.where == ANSWERS_FILE
    assert found.problem.startswith(told)
    assert "git log -p -- .copier-answers.yml" in found.mend


# A synthetic next release in which a choice is retired and a question renamed, as docs/maintaining.md says.


@pytest.fixture
def later(template: Path, tmp_path: Path) -> Callable[[Edit, str], Path]:
    """The repository of releases with one more, whose copier.yml and choices.yml are edited."""

    def publish(questions: Edit, known: str = "") -> Path:
        folder = tmp_path / "later"
        git(tmp_path, "clone", "--quiet", str(template), str(folder))
        path = folder / "copier.yml"
        before = path.read_text()
        path.write_text(questions(before))
        assert path.read_text() != before
        listed = folder / "questions/choices.yml"
        listed.write_text(known or listed.read_text())
        commit(folder, "Later", "v1001.0.0")
        return folder

    return publish


def _without_arq(text: str) -> str:
    return re.sub(r'    "ARQ .*\n', "", text)


def test_a_choice_that_is_retired_is_refused_and_not_replaced_by_the_default(later: Any, tmp_path: Path) -> None:
    folder = later(_without_arq, re.sub("celery, arq, ", "celery, ", CHOICES.read_text()))
    service = copied(folder, tmp_path / "service", "v0.2.0", {"stack": "arq"})
    before = service.files()
    told = (
        "says stack: arq, which this version does not know. Say what it is to be, one of celery, temporal, for example"
    )
    with pytest.raises(ValueError, match=told):
        service.update(to="v1001.0.0")
    assert service.files() == before
    service.update(to="v1001.0.0", stack="temporal")
    assert service.answers()["stack"] == "temporal"


def test_a_choice_that_is_retired_becomes_what_its_default_says(later: Any, tmp_path: Path) -> None:
    mapped = "default: \"{{ {'arq': 'temporal'}.get(stack | default(''), 'celery') }}\""
    folder = later(lambda text: _without_arq(text).replace("default: celery", mapped))
    service = copied(folder, tmp_path / "service", "v0.2.0", {"stack": "arq"})
    service.update(to="v1001.0.0")
    assert service.answers()["stack"] == "temporal"


def test_a_question_that_is_renamed_keeps_its_answer(later: Any, tmp_path: Path) -> None:
    def rename(text: str) -> str:
        text = text.replace("'large_results',", "'large_results', 'results_store',")
        text = re.sub(r"(?m)^large_results:", "results_store:", text).replace("large_results ==", "results_store ==")
        return text.replace("  default: object_store", "  default: \"{{ large_results | default('object_store') }}\"")

    known = CHOICES.read_text().replace("large_results:", "results_store:")
    folder = later(rename, known)
    for path in (folder / "template").rglob("*.jinja"):
        path.write_text(path.read_text().replace("large_results ==", "results_store =="))
    commit(folder, "Renamed", "v1002.0.0")
    service = copied(folder, tmp_path / "service", "v0.3.0", {"large_results": "database"})
    service.update(to="v1002.0.0")
    assert service.answers()["results_store"] == "database"
    assert "large_results" not in service.answers()
