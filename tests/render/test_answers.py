"""The questions: each answer has an effect, and a bad one is refused in words that show a right one."""

import itertools
import keyword
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from .rendering import ANSWERS_FILE, QUESTIONS, RECORDED, ROOT, Renderer, Service, choices, combinations, usual

ASKED = {name: question for name, question in RECORDED.items() if question.get("ask", True)}
OTHER = {  # another good answer to each question that takes any text
    "project_name": "Order Desk",
    "project_slug": "order-desk",
    "package": "order_desk",
    "description": "Takes orders, day & night: it's never late",
    "runbook": "https://wiki.example.com/order-desk/runbook",
}
REFUSED: list[tuple[str, Any, str]] = [
    ("project_name", "", "for example Order Desk"),
    ("project_name", "3D Print", "starts with a letter A-Z"),
    ("project_name", 'Say "hi"', "for example Order Desk"),
    ("project_name", "back\\slash", "for example Order Desk"),
    ("project_name", "two\nlines", "for example Order Desk"),
    ("project_name", "ends with a line\n", "for example Order Desk"),
    ("project_name", "{{ package }}", "for example Order Desk"),
    ("project_name", "x" * 41, "at most 40"),
    ("project_slug", "Order_Desk", "for example order-desk"),
    ("project_slug", "order--desk", "for example order-desk"),
    ("project_slug", "celery", "celery-service"),
    ("package", "order-desk", "for example order_desk"),
    ("package", "2fast", "for example order_desk"),
    ("package", "class", "class_service"),
    ("package", "email", "email_service"),
    ("description", "", "one line"),
    ("description", 'the "best"', "one line"),
    ("description", "back\\slash", "one line"),
    ("description", "two\nlines", "one line"),
    ("description", "{% raw %}", "one line"),
    ("python_version", "3.10", "['3.11', '3.12', '3.13', '3.14']"),
    ("stack", "rq", "['celery', 'arq', 'temporal']"),
    ("broker", "kafka", "['redis', 'rabbitmq']"),
    ("queues", ["critical"], "[critical, default, bulk]"),
    ("queues", [], "[critical, default, bulk]"),
    ("queues", ["default", "urgent"], "['critical', 'high', 'default', 'low', 'bulk']"),
    ("queues", "default", "for example --data 'queues=[critical, default]'"),
    ("api", "perhaps", "for example --data api=false"),
    ("monitoring", "prometheus", "for example --data 'monitoring=[prometheus]', not prometheus"),
    ("monitoring", ["statsd"], "['prometheus', 'opentelemetry', 'flower']"),
    ("runbook", "", "a path or a URL"),
    ("runbook", "our wiki", "for example https://wiki.example.com"),
    ("runbook", "{{ package }}", "a path or a URL"),
    ("large_results", "s3", "['object_store', 'database']"),
    ("stak", "arq", "does not ask for stak. It asks for project_name"),
    ("if_api", ".", "does not ask for if_api"),
]


@pytest.mark.parametrize(("name", "answer", "told"), REFUSED, ids=lambda value: str(value)[:20])
def test_a_bad_answer_is_refused_in_words_and_nothing_is_rendered(
    renderer: Renderer, name: str, answer: object, told: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(told)) as refusal:
        renderer.render({name: answer})
    assert "\n" not in str(refusal.value)
    assert refusal.value.__notes__ == ["left behind: []"]


def test_on_the_command_line_the_last_line_says_what_is_wrong(renderer: Renderer, tmp_path: Path) -> None:
    folder = tmp_path / "service"
    copy = [sys.executable, "-m", "copier", "copy", "--defaults", "--data", "queues=[bulk]"]
    done = subprocess.run([*copy, str(renderer.template), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "keep it, for example [critical, default, bulk]." in done.stderr.splitlines()[-1]
    assert not folder.exists()


def _changes() -> list[tuple[str, Any]]:
    cases: list[tuple[str, Any]] = list(OTHER.items())
    for name, question in RECORDED.items():
        if question.get("multiselect"):
            chosen = usual(question)
            cases += [(name, sorted({*chosen} ^ {choice})) for choice in choices(question) if choice != "default"]
        else:
            cases += [(name, choice) for choice in choices(question) if choice != question["default"]]
    return cases


def test_prometheus_needs_the_api_whose_metrics_it_reads(renderer: Renderer) -> None:
    with pytest.raises(ValueError, match="reads /metrics of the HTTP API: answer api=true, or leave it out"):
        renderer.render({"api": False, "monitoring": ["prometheus"]})
    without = renderer.render({"api": False})
    assert yaml.safe_load(without.files[ANSWERS_FILE])["monitoring"] == []


@pytest.mark.parametrize("stack", ["arq", "temporal"])
def test_rabbitmq_is_for_celery(renderer: Renderer, stack: str) -> None:
    with pytest.raises(ValueError, match="RabbitMQ is for Celery: answer stack=celery, or leave broker out"):
        renderer.render({"stack": stack, "broker": "rabbitmq"})


@pytest.mark.parametrize("stack", [stack for stack in choices(QUESTIONS["stack"]) if stack != "celery"])
def test_flower_is_for_celery_alone(renderer: Renderer, stack: str) -> None:
    with pytest.raises(
        ValueError, match="shows Celery's workers only: answer stack=celery, or leave it out"
    ) as refusal:
        renderer.render({"stack": stack, "monitoring": ["flower"]})
    assert refusal.value.__notes__ == ["left behind: []"]


def test_the_combinations_are_few_and_each_choice_meets_every_other() -> None:
    found = combinations()
    assert len(found) <= 220
    for monitoring, queues in itertools.product(([], ["prometheus"], ["prometheus", "opentelemetry"]), ([], ["bulk"])):
        assert any(case["monitoring"] == monitoring and set(queues) <= set(case["queues"]) for case in found)


def test_every_question_has_another_answer_to_try() -> None:
    single = {name for name, question in RECORDED.items() if len(choices(question)) == 1}
    assert {name for name, _ in _changes()} | single == set(RECORDED)
    assert all(not RECORDED[name].get("ask", True) for name in single), "a question with one answer is not asked"


@pytest.mark.parametrize(("name", "answer"), _changes(), ids=str)
def test_every_answer_changes_something(renderer: Renderer, default: Service, name: str, answer: object) -> None:
    changed = renderer.render({name: answer})
    assert {path: content for path, content in changed.files.items() if path != ANSWERS_FILE} != {
        path: content for path, content in default.files.items() if path != ANSWERS_FILE
    }


def test_the_answers_file_records_what_was_answered_and_nothing_computed(services: list[Service]) -> None:
    for service in services:
        recorded = yaml.safe_load(service.files[ANSWERS_FILE])
        without = {"broker"} if recorded["stack"] != "celery" else set()
        assert {name for name in recorded if not name.startswith("_")} == set(RECORDED) - without
        assert {name: recorded[name] for name in service.answers} == dict(service.answers)


@pytest.mark.parametrize(
    ("project_name", "slug", "package"),
    [
        ("Order Desk", "order-desk", "order_desk"),
        ("A", "a", "a"),
        ("Bob's (new) C++ Jobs.", "bob-s-new-c-jobs", "bob_s_new_c_jobs"),
        ("Gießerei 4.0", "gie-erei-4-0", "gie_erei_4_0"),
        ("Email", "email-service", "email_service"),
        ("Celery", "celery-service", "celery_service"),
        ("ARQ", "arq-service", "arq_service"),
        ("Temporalio", "temporalio-service", "temporalio_service"),
        ("X" * 40, "x" * 40, "x" * 40),
    ],
)
def test_the_names_follow_from_the_project_name(renderer: Renderer, project_name: str, slug: str, package: str) -> None:
    service = renderer.render({"project_name": project_name})
    project = tomllib.loads(service.files["pyproject.toml"].decode())["project"]
    assert project["name"] == slug
    assert project["scripts"] == {slug: f"{package}.cli:main"}
    assert f"src/{package}/contract.py" in service.files


def test_no_package_may_hide_one_that_it_needs(services: list[Service]) -> None:
    """The list in questions/taken-names.txt holds every name of Python's own and of the direct dependencies."""
    taken = (ROOT / "questions/taken-names.txt").read_text().split()
    assert taken == sorted(set(taken))
    needed = {name for name in sys.stdlib_module_names if not name.startswith("_")}
    needed |= {word for word in keyword.kwlist if word.islower()}
    for service in services:
        project = tomllib.loads(service.files["pyproject.toml"].decode())
        requirements = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
        needed |= {re.split(r"[^\w-]", requirement)[0].replace("-", "_") for requirement in requirements}
    assert needed <= set(taken)


def test_the_misspelling_check_knows_every_question() -> None:
    listed = re.search(r"set questions = (\[.*?\])", QUESTIONS["project_name"]["validator"])
    assert listed
    assert yaml.safe_load(listed[1]) == list(RECORDED)


def test_few_questions_each_says_its_consequence() -> None:
    assert len(ASKED) <= 10
    assert all(len(question["help"].split()) >= 8 for question in ASKED.values())
