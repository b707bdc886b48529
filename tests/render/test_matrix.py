"""Every combination of answers renders clean, typed and free of contradictions, within a minute."""

from collections.abc import Callable
from pathlib import Path

import pytest

from . import checks
from .agreement import contradictions
from .matrix import Matrix
from .rendering import QUESTIONS, RECORDED, choices

VERSIONS = choices(QUESTIONS["python_version"])


@pytest.mark.parametrize(
    "text",
    [
        "a \n",
        "a",
        "\na\n",
        "a\n\n",
        "a\n\n\n\nb\n",
        "a\r\n",
        "a\tb\n",
        "{{ package }}\n",
        "{% if api %}\n",
        "{# why #}\n",
    ],
)
def test_a_blemish_is_found(text: str) -> None:
    assert checks.blemishes(text)


def test_no_stray_blanks_no_template_code_and_data_parses(matrix: Matrix) -> None:
    assert not list(checks.unclean(matrix.contents))


def test_python_is_formatted_and_linted_by_the_services_own_rules(matrix: Matrix, tmp_path: Path) -> None:
    assert not list(checks.unformatted(matrix.contents, tmp_path))


def test_what_one_file_speaks_of_another_has(matrix: Matrix) -> None:
    assert not list(contradictions(matrix))


def test_no_two_layers_write_the_same_file(matrix: Matrix) -> None:
    assert not list(checks.overlaps(matrix))


def test_every_answer_makes_a_difference_and_no_file_is_rendered_for_nothing(matrix: Matrix) -> None:
    assert not list(checks.idle(matrix))


@pytest.mark.parametrize("stack", choices(QUESTIONS["stack"]))
def test_python_passes_the_type_check(
    matrix: Matrix, environment: Callable[[str], Path], tmp_path: Path, stack: str
) -> None:
    """All on the oldest Python; the default service of the stack on the newest, too."""
    services = [service for service in matrix.each("*.py") if service.answers["stack"] == stack]
    assert not checks.untyped(checks.modules(services), environment(stack), tmp_path / "all")
    newest = matrix.render({"stack": stack, "python_version": VERSIONS[-1]})
    assert not checks.untyped(checks.modules([newest]), environment(stack), tmp_path / "newest")


def test_the_covering_set_is_small_and_each_choice_meets_every_other(matrix: Matrix) -> None:
    for name in ("monitoring", "queues"):
        for choice in choices(RECORDED[name]):
            for stack in {answers["stack"] for answers in matrix.combinations if choice in answers[name]}:
                assert any(answers["stack"] == stack and choice in answers[name] for answers in matrix.covering)
    assert len(matrix.covering) <= 30
