"""The questions: each answer has an effect, and a bad one is refused in words that show a right one."""

import keyword
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from copier import run_copy

from .matrix import Matrix
from .rendering import QUESTIONS, RECORDED, ROOT, Service, choices

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
    ("schedules", "redis", "['code', 'database']"),
    ("api", "perhaps", "for example --data api=false"),
    ("monitoring", "prometheus", "for example --data 'monitoring=[prometheus]', not prometheus"),
    ("monitoring", ["statsd"], "['prometheus', 'opentelemetry', 'flower']"),
    ("runbook", "", "a path or a URL"),
    ("runbook", "our wiki", "for example https://wiki.example.com"),
    ("runbook", "{{ package }}", "a path or a URL"),
    ("large_results", "s3", "['object_store', 'database']"),
    ("ci", "jenkins", "['github', 'gitlab', 'none']"),
    ("stak", "arq", "does not ask for stak. It asks for project_name"),
    ("if_api", ".", "does not ask for if_api"),
]


@pytest.mark.parametrize(("name", "answer", "told"), REFUSED, ids=lambda value: str(value)[:20])
def test_a_bad_answer_is_refused_in_words_and_nothing_is_rendered(
    template: Path, tmp_path: Path, name: str, answer: object, told: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(told)) as refusal:
        run_copy(str(template), tmp_path / "service", data={name: answer}, defaults=True, quiet=True)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "service").exists()


def test_on_the_command_line_the_last_line_says_what_is_wrong(template: Path, tmp_path: Path) -> None:
    folder = tmp_path / "service"
    copy = [sys.executable, "-m", "copier", "copy", "--defaults", "--data", "queues=[bulk]"]
    done = subprocess.run([*copy, str(template), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "keep it, for example [critical, default, bulk]." in done.stderr.splitlines()[-1]
    assert not folder.exists()


def test_prometheus_needs_the_api_whose_metrics_it_reads(matrix: Matrix) -> None:
    with pytest.raises(ValueError, match="reads /metrics of the HTTP API: answer api=true, or leave it out"):
        matrix.render({"api": False, "monitoring": ["prometheus"]})
    assert matrix.render({"api": False}).answers["monitoring"] == []


@pytest.mark.parametrize("stack", ["arq", "temporal"])
def test_rabbitmq_is_for_celery(template: Path, tmp_path: Path, stack: str) -> None:
    with pytest.raises(ValueError, match="RabbitMQ is for Celery: answer stack=celery, or leave broker out"):
        run_copy(
            str(template), tmp_path / "service", data={"stack": stack, "broker": "rabbitmq"}, defaults=True, quiet=True
        )
    assert not (tmp_path / "service").exists()


@pytest.mark.parametrize("stack", [stack for stack in choices(QUESTIONS["stack"]) if stack != "celery"])
def test_flower_is_for_celery_alone(matrix: Matrix, stack: str) -> None:
    with pytest.raises(ValueError, match="shows Celery's workers only: answer stack=celery, or leave it out"):
        matrix.render({"stack": stack, "monitoring": ["flower"]})


def test_every_text_of_ones_own_changes_something(matrix: Matrix, default: Service) -> None:
    """Choices: test_matrix.py."""
    assert OTHER.keys() == {name for name, question in RECORDED.items() if not choices(question)}
    for name, answer in OTHER.items():
        assert matrix.render({name: answer}).files != default.files, name


def test_a_question_with_one_answer_is_not_asked() -> None:
    assert not [name for name, question in ASKED.items() if len(choices(question)) == 1]


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
def test_the_names_follow_from_the_project_name(matrix: Matrix, project_name: str, slug: str, package: str) -> None:
    service = matrix.render({"project_name": project_name})
    project = tomllib.loads(service.files["pyproject.toml"].decode())["project"]
    assert project["name"] == slug
    assert project["scripts"] == {slug: f"{package}.cli:main"}
    assert f"src/{package}/contract.py" in service.files


def test_no_package_may_hide_one_that_it_needs(matrix: Matrix) -> None:
    """The list in questions/taken-names.txt holds every name of Python's own and of the direct dependencies."""
    taken = (ROOT / "questions/taken-names.txt").read_text().split()
    assert taken == sorted(set(taken))
    needed = {name for name in sys.stdlib_module_names if not name.startswith("_")}
    needed |= {word for word in keyword.kwlist if word.islower()}
    for service in matrix.each("pyproject.toml"):
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
