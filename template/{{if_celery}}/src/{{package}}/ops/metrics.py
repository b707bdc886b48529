"""How much work waits, and the fleet's metrics in the Prometheus text format.

`LLEN queue` sees one of ten priority lists and none of what is delayed or in hand, so that alerts and autoscaling stay
blind. Counters in a worker's memory vanish with a killed process and are invisible in its pool children; these are kept
by record.lua, are the same from every API replica (aggregate with `max by`, never `sum`), and cost no round trip.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from ..contract import QueueStatus, ScheduleStatus, WorkerStatus
from ..queues import QUEUES
from ..runtime.connection import redis
from ..runtime.record import DURATION_BUCKETS, METRICS, WAIT_BUCKETS
from ..settings import settings

PRIORITIES = range(10)
LOOKED_AT = 200  # messages per list, the oldest; of the others, delayed ones that no worker holds count as waiting


def _list_name(queue: str, step: int) -> str:
    return f"{queue}:{step}" if step else queue


def _due(message: dict[str, Any]) -> float | None:
    """When this message's job is or was due, None if it does not say."""
    headers = message.get("headers") or {}
    if eta := headers.get("eta"):
        return datetime.fromisoformat(eta).timestamp()
    return (headers.get("job") or {}).get("submitted_at")


def _due_of(text: str) -> float | None:
    try:
        return _due(json.loads(text))
    except (ValueError, AttributeError):
        return None  # not a message; a worker will make a dead letter of it


def workers() -> list[WorkerStatus]:
    """The workers that gave a sign of life within three renewals."""
    alive, forgotten, now = [], [], time.time()
    for name, text in sorted(redis().hgetall("workers").items()):
        worker = WorkerStatus(name=name, **json.loads(text))
        if now - worker.seen_at < 3 * settings().renewal:
            alive.append(worker)
        elif now - worker.seen_at > 3600:
            forgotten.append(name)
    if forgotten:
        redis().hdel("workers", *forgotten)
    return alive


def queues(alive: list[WorkerStatus] | None = None) -> list[QueueStatus]:
    """Every queue with its backlog."""
    alive = workers() if alive is None else alive
    now = time.time()
    with redis().pipeline(transaction=False) as pipe:
        for queue in QUEUES:
            for step in PRIORITIES:
                pipe.llen(_list_name(queue.name, step))
                pipe.lrange(_list_name(queue.name, step), -LOOKED_AT, -1)
        pipe.hvals("unacked")
        pipe.hgetall("dead:queues")
        *lists, unacked, dead = pipe.execute()
    delayed: Counter[str] = Counter()
    in_flight: Counter[str] = Counter()
    for text in unacked:
        message, _, queue_name = json.loads(text)
        (delayed if (_due(message) or now) > now else in_flight)[queue_name] += 1
    found = []
    for index, queue in enumerate(QUEUES):
        part = lists[index * 2 * len(PRIORITIES) : (index + 1) * 2 * len(PRIORITIES)]
        moments = [due for texts in part[1::2] for text in texts if (due := _due_of(text)) is not None]
        delayed[queue.name] += (later := sum(due > now for due in moments))
        waiting = sum(part[0::2]) - later
        found.append(
            QueueStatus(
                name=queue.name,
                depth=waiting + delayed[queue.name] + in_flight[queue.name],
                waiting=waiting,
                delayed=delayed[queue.name],
                in_flight=in_flight[queue.name],
                oldest_age=max(0.0, now - min(moments)) if moments else 0.0,
                workers=sum(queue.name in worker.queues for worker in alive),
                dead_letters=int(dead.get(queue.name, 0)),
            )
        )
    return found


def _counters(stored: dict[str, str]) -> Iterator[Metric]:
    started = CounterMetricFamily("jobs_started", "Runs begun.", labels=["job", "queue"])
    finished = CounterMetricFamily("jobs_finished", "Runs ended, by outcome.", labels=["job", "queue", "outcome"])
    enqueued = CounterMetricFamily("jobs_enqueued", "Jobs accepted.", labels=["job", "queue"])
    families = {"started": started, "enqueued": enqueued}
    for field, value in sorted(stored.items()):
        what, job, queue, outcome = field.split("|")
        if what == "finished":
            finished.add_metric([job, queue, outcome], float(value))
        elif what in families:
            families[what].add_metric([job, queue], float(value))
    yield from (enqueued, started, finished)


def _histograms(stored: dict[str, str]) -> Iterator[Metric]:
    for what, name, text, bounds in (
        ("wait", "jobs_queue_wait_seconds", "From due to started.", WAIT_BUCKETS),
        ("duration", "jobs_duration_seconds", "Length of a run.", DURATION_BUCKETS),
    ):
        family = HistogramMetricFamily(name, text, labels=["job", "queue"])
        series: dict[tuple[str, str], dict[str, float]] = {}
        for field, value in stored.items():
            kind, job, queue, bucket = field.split("|")
            if kind == what:
                series.setdefault((job, queue), {})[bucket] = float(value)
        for (job, queue), counts in sorted(series.items()):
            edges = [*map(str, bounds), "+Inf"]
            totals = accumulate(counts.get(str(i), 0.0) for i in range(1, len(edges) + 1))
            family.add_metric([job, queue], list(zip(edges, totals, strict=True)), counts.get("sum", 0.0))
        yield family


def _gauges(
    queues: list[QueueStatus], schedules: list[ScheduleStatus], intervals: dict[str, float]
) -> Iterator[Metric]:
    for name, text, attribute in (
        ("jobs_queue_depth", "Jobs in the queue: waiting, delayed and in flight.", "depth"),
        ("jobs_queue_oldest_age_seconds", "Age of the oldest due job.", "oldest_age"),
        ("jobs_in_flight", "Jobs taken by a worker and not finished.", "in_flight"),
        ("jobs_dead_letter_depth", "Dead letters.", "dead_letters"),
        ("jobs_workers", "Live workers that read the queue.", "workers"),
    ):
        family = GaugeMetricFamily(name, text, labels=["queue"])
        for queue in queues:
            family.add_metric([queue.name], getattr(queue, attribute))
        yield family
    last = GaugeMetricFamily("jobs_schedule_last_enqueue_timestamp_seconds", "Last firing.", labels=["schedule"])
    interval = GaugeMetricFamily("jobs_schedule_interval_seconds", "Longest gap between firings.", labels=["schedule"])
    for schedule in schedules:
        last.add_metric([schedule.name], schedule.last_run_at or 0.0)
        interval.add_metric([schedule.name], intervals[schedule.name])
    yield from (last, interval)


class _Snapshot:
    def __init__(self, families: list[Metric]) -> None:
        self.families = families

    def collect(self) -> list[Metric]:
        return self.families


def exposition(backlog: list[QueueStatus], schedules: list[ScheduleStatus], intervals: dict[str, float]) -> bytes:
    """Everything in the Prometheus text format."""
    stored = {str(field): str(value) for field, value in redis().hgetall(METRICS).items()}
    registry = CollectorRegistry()
    registry.register(_Snapshot([*_counters(stored), *_histograms(stored), *_gauges(backlog, schedules, intervals)]))
    return generate_latest(registry)
