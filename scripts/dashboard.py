"""Writes the Grafana dashboard of a service, so that its panels are a list to read and not 600 lines of JSON.

    python scripts/dashboard.py

Queues, jobs and schedules are variables that Grafana fills from the metrics, which the API makes from queues.py and the
declared jobs: a service's own queue appears by itself. tests/render/test_monitoring.py says when the file is stale.
"""

import json
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parents[1] / "template/{{if_prometheus}}/dashboard.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
QUEUE = '{service="$service",queue=~"$queue"}'
JOB = '{service="$service",queue=~"$queue",job=~"$job"}'
SCHEDULE = '{service="$service"}'
WIDTH, HEIGHT = 12, 8

Queries = dict[str, str]
"""Legend → expression."""


def by_queue(metric: str) -> str:
    """Of a number that every API process tells alike."""
    return f"max by (queue) ({metric}{QUEUE})"


def rate(metric: str, by: str) -> str:
    """Events per second; the largest of what the API processes tell, then summed."""
    return f"sum by ({by}) (max by (job, queue, outcome) (rate({metric}{JOB}[$__rate_interval])))"


def quantile(share: float, metric: str, by: str) -> str:
    buckets = f"max by (le, job, queue) (rate({metric}_bucket{JOB}[$__rate_interval]))"
    return f"histogram_quantile({share}, sum by (le, {by}) ({buckets}))"


PANELS: list[tuple[str, str, str, Queries]] = [
    (
        "Depth",
        "short",
        "Waiting, delayed and in flight; dashed: max_depth of queues.py.",
        {"{{queue}}": by_queue("jobs_queue_depth"), "{{queue}} limit": by_queue("jobs_queue_max_depth")},
    ),
    (
        "Oldest due job",
        "s",
        "How long it has waited: what users feel. Dashed: max_age of queues.py.",
        {
            "{{queue}}": by_queue("jobs_queue_oldest_age_seconds"),
            "{{queue}} limit": by_queue("jobs_queue_max_age_seconds"),
        },
    ),
    ("In flight", "short", "Taken by a worker and not finished.", {"{{queue}}": by_queue("jobs_in_flight")}),
    (
        "Workers",
        "short",
        "Live processes that read the queue; problem: 1 where the broker has lost it, /health/jobs says what.",
        {"{{queue}}": by_queue("jobs_workers"), "{{queue}} problem": by_queue("jobs_queue_problem")},
    ),
    ("Enqueued", "ops", "Jobs accepted each second.", {"{{job}}": rate("jobs_enqueued_total", "job")}),
    (
        "Finished by outcome",
        "ops",
        "Runs ended each second; one job may be retried several times.",
        {"{{outcome}}": rate("jobs_finished_total", "outcome")},
    ),
    (
        "Wait from due to started",
        "s",
        "By queue.",
        {
            "{{queue}} p50": quantile(0.5, "jobs_queue_wait_seconds", "queue"),
            "{{queue}} p95": quantile(0.95, "jobs_queue_wait_seconds", "queue"),
        },
    ),
    (
        "Duration of a run",
        "s",
        "By job.",
        {
            "{{job}} p50": quantile(0.5, "jobs_duration_seconds", "job"),
            "{{job}} p95": quantile(0.95, "jobs_duration_seconds", "job"),
        },
    ),
    ("Dead letters", "short", "A person must look at each.", {"{{queue}}": by_queue("jobs_dead_letter_depth")}),
    (
        "Share that ends as dead letters",
        "percentunit",
        "By job, within 15 minutes.",
        {
            "{{job}}": "sum by (job) (max by (job, queue, outcome) (increase("
            f'jobs_finished_total{JOB[:-1]},outcome=~"dead|timed_out"}}[15m])))'
            " / (sum by (job) (max by (job, queue, outcome) (increase("
            f'jobs_finished_total{JOB[:-1]},outcome=~"succeeded|dead|timed_out"}}[15m]))) > 0)'
        },
    ),
    (
        "Schedules: until the next firing",
        "s",
        "Below 0 it is late; a paused one is not shown.",
        {"{{schedule}}": f"max by (schedule) (jobs_schedule_next_enqueue_timestamp_seconds{SCHEDULE}) - time()"},
    ),
    (
        "Alerts",
        "short",
        "1 while it fires.",
        {"{{alertname}} {{queue}}{{job}}{{schedule}}": 'ALERTS{service="$service",alertstate="firing"}'},
    ),
]


def panel(number: int, title: str, unit: str, description: str, queries: Queries) -> dict[str, Any]:
    """One graph, two to a row."""
    dashed: dict[str, Any] = {
        "matcher": {"id": "byRegexp", "options": "/ limit$/"},
        "properties": [
            {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [6, 6]}},
            {"id": "custom.fillOpacity", "value": 0},
        ],
    }
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "description": description,
        "datasource": SOURCE,
        "gridPos": {"x": number % 2 * WIDTH, "y": number // 2 * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {
            "defaults": {"unit": unit, "custom": {"fillOpacity": 10}},
            "overrides": [dashed] if any(legend.endswith(" limit") for legend in queries) else [],
        },
        "options": {"tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for index, (legend, expression) in enumerate(queries.items())
        ],
    }


def variable(name: str, query: str, *, several: bool) -> dict[str, Any]:
    """A choice at the top, filled from the metrics."""
    chosen = {"text": "All", "value": "$__all"} if several else {}
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "multi": several,
        "includeAll": several,
        "current": chosen,
    }


def dashboard() -> dict[str, Any]:
    return {
        "uid": "background-jobs",
        "title": "Background jobs",
        "tags": ["jobs"],
        "schemaVersion": 41,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                variable("service", "label_values(jobs_queue_depth, service)", several=False),
                variable("queue", 'label_values(jobs_queue_depth{service="$service"}, queue)', several=True),
                variable("job", 'label_values(jobs_started_total{service="$service"}, job)', several=True),
            ]
        },
        "panels": [panel(number, *each) for number, each in enumerate(PANELS)],
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
