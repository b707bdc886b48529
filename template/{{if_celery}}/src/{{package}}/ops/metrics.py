"""The fleet's metrics in the Prometheus text format, from counters that the scripts of lua/ keep in Redis.

Counters in a worker's memory vanish with a killed process and are invisible in its pool children. These survive both,
are the same from every API replica (aggregate with `max by`, never `sum`), and cost no round trip of their own.
"""

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from ..contract import QueueStatus, ScheduleStatus
from ..runtime.connection import redis
from ..runtime.record import DURATION_BUCKETS, METRICS, WAIT_BUCKETS


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


def exposition(queues: list[QueueStatus], schedules: list[ScheduleStatus], intervals: dict[str, float]) -> bytes:
    """Everything in the Prometheus text format."""
    stored = {str(field): str(value) for field, value in redis().hgetall(METRICS).items()}
    registry = CollectorRegistry()
    registry.register(_Snapshot([*_counters(stored), *_histograms(stored), *_gauges(queues, schedules, intervals)]))
    return generate_latest(registry)
