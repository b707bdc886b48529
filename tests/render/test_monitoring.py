"""An alert that cannot fire, or that nobody can answer, is worse than none: promtool runs the rules and their tests.

tests/contract/test_alerts.py causes each fault in a live service and sees its alert fire.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from .checks import complaints
from .matrix import Matrix
from .rendering import ROOT, Service

FOLDER = "deploy/monitoring"
FILES = {"compose.yaml", "dashboard.json", "prometheus.yml", "rules.yml", "rules_test.yml", "runbook.md"}
METRIC = re.compile(r"\bjobs_\w+")


@pytest.fixture(scope="session")
def promtool() -> str:
    """Its path; where it cannot be had that is a failure, not a skip."""
    done = subprocess.run(["sh", str(ROOT / "scripts/prometheus.sh")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return f"{done.stdout.strip()}/promtool"


@pytest.fixture(scope="session")
def monitored(matrix: Matrix) -> list[Service]:
    """One service for each content of the folder, and one with names of its own."""
    own = matrix.render({"project_name": "Bob's (new) C++ Jobs", "runbook": "https://wiki.example.com/a~b/jobs"})
    services = {
        tuple(content for path, content in service.files.items() if path.startswith(FOLDER)): service
        for service in matrix.each(f"{FOLDER}/*")
    }
    return [own, *(service for files, service in services.items() if files)]


@pytest.fixture
def folders(monitored: Sequence[Service], tmp_path: Path) -> list[Path]:
    return [service.write(tmp_path / str(number)) / FOLDER for number, service in enumerate(monitored)]


def rules(service: Service) -> dict[str, dict[str, Any]]:
    """Each alert by its name."""
    [group] = yaml.safe_load(service.files[f"{FOLDER}/rules.yml"])["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def expressions(service: Service) -> Iterator[str]:
    """Of all panels, with a value for each of Grafana's variables."""
    values = {"$service": "a", "$queue": ".*", "$job": ".*", "$__rate_interval": "1m"}
    for panel in json.loads(service.files[f"{FOLDER}/dashboard.json"])["panels"]:
        for target in panel["targets"]:
            yield re.sub(r"\$\w+", lambda match: values[match[0]], target["expr"])


def test_the_files_come_with_the_choice(matrix: Matrix) -> None:
    for service in matrix:
        found = {path.removeprefix(f"{FOLDER}/") for path in service.files if path.startswith("deploy/")}
        assert found == (FILES if "prometheus" in service.answers["monitoring"] else set()), service.label


def test_promtool_accepts_rules_and_configuration(folders: Sequence[Path], promtool: str) -> None:
    for folder in folders:
        configuration = folder / "prometheus.yml"
        (folder / "token").touch()
        text = configuration.read_text()
        assert "credentials_file: /run/secrets/metrics_token}" in text
        configuration.write_text(text.replace("/run/secrets/metrics_token", "token"))
        assert not complaints([promtool, "check", "rules", "rules.yml"], folder)
        assert not complaints([promtool, "check", "config", "prometheus.yml"], folder)


def test_each_alert_fires_and_stays_silent_when_it_should(folders: Sequence[Path], promtool: str) -> None:
    for folder in folders:
        assert not complaints([promtool, "test", "rules", "rules_test.yml"], folder)


def test_no_alert_is_without_a_test_in_which_it_fires_and_one_in_which_it_does_not(
    monitored: Sequence[Service],
) -> None:
    for service in monitored:
        tests = yaml.safe_load(service.files[f"{FOLDER}/rules_test.yml"])["tests"]
        fired: set[str] = set()
        for test in tests:
            fired |= {case["alertname"] for case in test.get("alert_rule_test", []) if case.get("exp_alerts")}
            samples = [sample for case in test.get("promql_expr_test", []) for sample in case.get("exp_samples", [])]
            fired |= {name for sample in samples for name in re.findall(r'alertname="(\w+)"', sample["labels"])}
        assert fired == set(rules(service))
        silent = [case for test in tests for case in test.get("promql_expr_test", []) if not case.get("exp_samples")]
        assert sum("ALERTS" in case["expr"] for case in silent) >= len(tests)


def test_each_alert_says_how_bad_what_with_numbers_and_where_to_look(monitored: Sequence[Service]) -> None:
    for service in monitored:
        runbook = service.files[f"{FOLDER}/runbook.md"].decode()
        assert re.findall(r"^## (\w+)$", runbook, re.MULTILINE) == list(rules(service))
        assert (
            runbook.count("**Means**") == runbook.count("**Look**") == runbook.count("**Mend**") == len(rules(service))
        )
        base = service.answers.get("runbook", "deploy/monitoring/runbook.md")
        for name, rule in rules(service).items():
            assert rule["labels"]["severity"] in ("page", "ticket")
            assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
            assert "$value" in str(rule["annotations"]) or name in (
                "JobsScheduleNeverFired",
                "JobsMetricsAbsent",
                "JobsTargetDown",
                "JobsQueueProblem",
            )
            assert rule["annotations"]["runbook_url"] == f"{base}#{name.lower()}"


def test_the_runbook_names_commands_that_exist(default: Service) -> None:
    runbook = default.files[f"{FOLDER}/runbook.md"].decode()
    named = set(re.findall(r"\bmy-service ([a-z][\w-]+)", runbook))
    offered = re.findall(r"^\| (`.*?) \|", default.files["README.md"].decode(), re.MULTILINE)
    assert len(named) > 8
    assert named <= {word for line in offered for word in re.findall(r"`([\w-]+)", line)}


def test_rules_and_dashboard_use_only_metrics_that_the_service_exports(monitored: Sequence[Service]) -> None:
    for service in monitored:
        [source] = [content.decode() for path, content in service.files.items() if path.endswith("/api/operations.py")]
        exported = set(re.findall(r'"(jobs_\w+)"', source))
        asked = [rule["expr"] for rule in rules(service).values()] + list(expressions(service))
        used = {re.sub(r"_(total|bucket)$", "", name) for text in asked for name in METRIC.findall(text)}
        assert used <= exported
        in_dashboard = {
            re.sub(r"_(total|bucket)$", "", name) for text in expressions(service) for name in METRIC.findall(text)
        }
        left_out = {"jobs_started", "jobs_schedule_last_enqueue_timestamp_seconds", "jobs_schedule_interval_seconds"}
        assert exported - in_dashboard <= left_out, "what is exported can be seen"


def test_thresholds_of_queues_stand_in_queues_py_alone(monitored: Sequence[Service]) -> None:
    """What the metrics say of them is compared with the file in a live service, by tests/contract/test_alerts.py."""
    for service in monitored:
        alerts = rules(service)
        assert (
            "> on (service, queue) max by (service, queue) (jobs_queue_max_depth" in alerts["JobsBacklogDeep"]["expr"]
        )
        assert "> on (service, queue) max by (service, queue) (jobs_queue_max_age" in alerts["JobsBacklogOld"]["expr"]
        for name in ("JobsBacklogDeep", "JobsBacklogOld", "JobsNoWorkers"):
            assert set(re.findall(r"[<>=] *([\d.]+)", alerts[name]["expr"])) <= {"0"}


def test_several_api_processes_are_never_added_up(monitored: Sequence[Service]) -> None:
    """Each tells the totals of the fleet: next to a metric stands `max by`, a function within it, or no aggregation."""
    for service in monitored:
        for text in [rule["expr"] for rule in rules(service).values()] + list(expressions(service)):
            for before in re.findall(r"(\w+ by \([^)]*\)|\w+) \((?:\w+\()?\s*jobs_", " ".join(text.split())):
                assert before.startswith("max by"), text


def test_every_panel_is_a_query_that_prometheus_understands(default: Service, promtool: str, tmp_path: Path) -> None:
    asked = list(expressions(default))
    assert len(asked) >= 15
    recorded = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(asked)]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    assert not complaints([promtool, "check", "rules", "panels.yml"], tmp_path)


def test_the_dashboard_is_what_its_script_writes(default: Service, tmp_path: Path) -> None:
    code = "import dashboard, sys; sys.stdout.write(dashboard.text())"
    written = subprocess.check_output([sys.executable, "-B", "-c", code], cwd=ROOT / "scripts")
    assert written == default.files[f"{FOLDER}/dashboard.json"], "run `python scripts/dashboard.py`"


def test_the_compose_profile_needs_a_password_and_no_root(default: Service) -> None:
    compose = yaml.safe_load(default.files[f"{FOLDER}/compose.yaml"])
    for name, service in compose["services"].items():
        assert service["profiles"] == ["monitoring"]
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), f"{name} runs as root"
        local = [volume.split(":")[0] for volume in service["volumes"] if volume.startswith("./")]
        assert {f"{FOLDER}/{path.removeprefix('./')}" for path in local} <= set(default.files)
    password = compose["services"]["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"]
    assert password.startswith("${GRAFANA_ADMIN_PASSWORD:?")
    for content in compose["configs"].values():
        assert yaml.safe_load(content["content"])["apiVersion"] == 1
