"""Each alert fires when its fault is caused in a live service, and clears when it is mended: a real Prometheus says so.

It runs the rendered rules and configuration; only their times are shortened, a minute to a second.
"""

import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from .installed import TEMPLATE, Installed
from .processes import free_ports, until
from .service import Service, running

TOKEN = "token-of-the-alert-tests"
SHORTER = {  # in rules.yml → here
    r"for: \d+m": "for: 1s",
    r"\[15m\]": "[10s]",
    r"\[15d:5m\]": "[1h:1s]",
    r"300 \* count": "1 * count",
    r"> 300 \+ 2 \*": "> 5 + 2 *",
    r"\) > 60\b": ") > 3",
    r"(jobs_queue_max_age_seconds\{service=\"[\w-]+\"\})": r"\1 / 20",
}


@dataclass(frozen=True)
class Watched:
    """A service and the Prometheus that watches it."""

    service: Service
    url: str
    rules: dict[str, dict[str, Any]]
    endless: list[str] = field(default_factory=list)
    """Ids of jobs to be cancelled."""

    def ask(self, path: str, **query: str) -> Any:
        return httpx.get(f"{self.url}/api/v1/{path}", params=query).raise_for_status().json()["data"]

    def firing(self) -> dict[str, dict[str, Any]]:
        """What fires, by the alert's name."""
        alerts = self.ask("alerts")["alerts"]
        return {alert["labels"]["alertname"]: alert for alert in alerts if alert["state"] == "firing"}

    def until_quiet(self, within: float = 60) -> None:
        until(lambda: not self.firing(), within, self.firing)


def shortened(rules: str) -> str:
    for pattern, shorter in SHORTER.items():
        rules, found = re.subn(pattern, shorter, rules)
        assert found, f"no {pattern} in rules.yml"
    return rules


@pytest.fixture(scope="module")
def watched(installed: Installed) -> Iterator[Watched]:
    """One worker on default and bulk, no scheduler yet."""
    done = subprocess.run(["sh", str(TEMPLATE / "scripts/prometheus.sh")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    monitoring = installed.folder / "deploy/monitoring"
    with running(installed, workers=0, api_tokens=TOKEN, lease=6, renewal=2) as service:
        [port] = free_ports(1)
        folder = service.folder / "prometheus"
        folder.mkdir()
        rules = shortened((monitoring / "rules.yml").read_text())
        (folder / "rules.yml").write_text(rules)
        (folder / "token").write_text(TOKEN)
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration(monitoring, service.api_port)))
        program, storage = Path(done.stdout.strip()) / "prometheus", f"--storage.tsdb.path={folder}/data"
        listen = f"--web.listen-address=127.0.0.1:{port}"
        service.start("prometheus", program, f"--config.file={folder}/prometheus.yml", storage, listen)
        service.start_worker("default", "bulk")
        [group] = yaml.safe_load(rules)["groups"]
        named = {rule["alert"]: rule for rule in group["rules"]}
        found = Watched(service, f"http://127.0.0.1:{port}", named)
        service.wait_for_workers(1)
        until(partial(scraped, found), 30)
        yield found


def configuration(monitoring: Path, port: int) -> dict[str, Any]:
    """The rendered one, with this service's address and token, looking each second."""
    config = yaml.safe_load((monitoring / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    [scrape] = config["scrape_configs"]
    scrape["static_configs"][0]["targets"] = [f"127.0.0.1:{port}"]
    scrape["authorization"]["credentials_file"] = "token"
    return config


def scraped(watched: Watched) -> bool:
    try:
        return bool(watched.ask("query", query="up == 1")["result"])
    except httpx.TransportError:
        return False


# The faults


def wait_for_a_scheduler(watched: Watched) -> None:
    """There has never been one."""


def start_the_scheduler(watched: Watched) -> None:
    watched.service.start_scheduler()


def flood_critical(watched: Watched) -> None:
    """With more jobs than it may hold, and no worker reads it."""
    for _ in range(101):
        watched.service.submit("noop", queue="critical")


def start_a_worker_on_critical(watched: Watched) -> None:
    watched.service.start_worker("critical")


def kill_jobs(watched: Watched) -> None:
    watched.service.submit("poison", {"label": "alert"})
    for _ in range(25):
        watched.service.submit("permanent", {"label": "alert"})


def discard_the_letters(watched: Watched) -> None:
    service = watched.service
    until(lambda: len(service.dead_letters()) == 26, 60, lambda: len(service.dead_letters()))  # poison takes its time
    for letter in service.dead_letters():
        assert service.http.delete(f"/api/v1/dead-letters/{letter['id']}").status_code == 204


def fill_the_worker(watched: Watched) -> None:
    """With jobs that do not end."""
    workers = watched.service.health()["workers"]
    slots = sum(worker["concurrency"] for worker in workers if "default" in worker["queues"])
    for _ in range(slots + 1):
        watched.endless.append(watched.service.submit("mark", {"label": "endless", "seconds": 300}))


def cancel_the_jobs(watched: Watched) -> None:
    """A busy broker may answer 503, which says to try again; no other refusal is taken."""
    for job in watched.endless:
        until(partial(cancelled, watched, job), 30)


def cancelled(watched: Watched, job: str) -> bool:
    answer = watched.service.http.delete(f"/api/v1/jobs/{job}")
    return answer.status_code != 503 and answer.raise_for_status().is_success


def kill_the_scheduler(watched: Watched) -> None:
    watched.service.told("tick", 2)
    [scheduler] = [each for each in watched.service.processes if each.name == "scheduler" and each.returncode is None]
    scheduler.kill_group()


def kill_the_broker(watched: Watched) -> None:
    watched.service.broker.kill_group()


def start_the_broker(watched: Watched) -> None:
    watched.service.start_broker()


Step = Callable[[Watched], None]
FAULTS: dict[str, tuple[Step, set[str], Step]] = {
    "no scheduler": (wait_for_a_scheduler, {"JobsScheduleNeverFired"}, start_the_scheduler),
    "no worker": (
        flood_critical,
        {"JobsNoWorkers", "JobsBacklogDeep", "JobsBacklogOld"},
        start_a_worker_on_critical,
    ),
    "dead letters": (kill_jobs, {"JobsDeadLetters", "JobsDeadLettersGrowing", "JobsFailing"}, discard_the_letters),
    "full worker": (fill_the_worker, {"JobsStalled"}, cancel_the_jobs),
    "killed scheduler": (kill_the_scheduler, {"JobsScheduleSilent"}, start_the_scheduler),
    "killed broker": (kill_the_broker, {"JobsMetricsAbsent", "JobsTargetDown"}, start_the_broker),
}


def test_the_limits_in_the_metrics_are_those_of_queues_py(installed: Installed, watched: Watched) -> None:
    code = f"from {installed.package}.queues import QUEUES\nfor q in QUEUES: print(q.name, q.max_depth, q.max_age)"
    printed = subprocess.check_output([str(installed.python), "-c", code], text=True).splitlines()
    for name, depth, age in map(str.split, printed):
        assert watched.service.metric("jobs_queue_max_depth", queue=name) == float(depth)
        assert watched.service.metric("jobs_queue_max_age_seconds", queue=name) == float(age)
    assert watched.service.metric("jobs_queue_max_depth", queue="critical") == 100


def test_a_counter_is_there_before_what_it_counts(watched: Watched) -> None:
    """Prometheus does not see a rise in the sample with which a counter begins."""
    for outcome in ("succeeded", "retried", "dead", "timed_out"):
        name = f'jobs_finished_total{{job="unexpected",outcome="{outcome}",queue="default"}}'
        assert watched.service.metrics().get(name) == 0, sorted(watched.service.metrics())


def test_prometheus_reads_the_service_with_the_token_and_keeps_its_labels(watched: Watched) -> None:
    job = watched.service.submit("noop")
    watched.service.wait(job)
    labels = f'job="noop",queue="default",outcome="succeeded",service="{watched.service.installed.slug}"'
    done = f"jobs_finished_total{{{labels}}} > 0"
    until(lambda: watched.ask("query", query=done)["result"], 10)
    assert httpx.get(f"{watched.service.http.base_url}/metrics").status_code == 401
    until(lambda: {rule["health"] for rule in rules(watched)} == {"ok"}, 10, lambda: rules(watched))


def rules(watched: Watched) -> list[dict[str, Any]]:
    return [rule for group in watched.ask("rules")["groups"] for rule in group["rules"]]


def test_each_alert_has_a_fault_that_causes_it(watched: Watched) -> None:
    """Its metric for a queue that RabbitMQ lost is caused by tests/faults/test_rabbitmq_lost_queues.py."""
    assert set().union(*(alerts for _, alerts, _ in FAULTS.values())) == set(watched.rules) - {"JobsQueueProblem"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_raises_its_alerts_and_no_other_and_they_clear_when_it_is_mended(watched: Watched, fault: str) -> None:
    cause, alerts, mend = FAULTS[fault]
    if fault != "no scheduler":
        watched.until_quiet()
    cause(watched)
    firing = until(lambda: found if alerts <= (found := watched.firing()).keys() else None, 60, watched.firing)
    assert firing.keys() == alerts
    for name, alert in firing.items():
        said = " ".join(alert["annotations"].values())
        assert not re.search(r"error|<no value>|%!|\{\{", said), said
        assert alert["labels"]["service"] == watched.service.installed.slug
        assert alert["annotations"]["runbook_url"].endswith(f"#{name.lower()}")
    mend(watched)
    watched.until_quiet()
