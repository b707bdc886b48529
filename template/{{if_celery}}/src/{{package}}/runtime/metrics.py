"""Counters kept in Redis, in the same script that changes a job's state, so that their sums are exact.

Counters in a worker's memory vanish with a killed process and are invisible in its pool children. These survive both, are the
same from every API replica (aggregate with `max by`, never `sum`), and cost no round trip of their own.
"""

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from ..contract import QueueStatus, ScheduleStatus
from .connection import redis

KEY = "metrics"
WAIT_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400)  # seconds
DURATION_BUCKETS = (0.005, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)  # seconds

LUA = f"""
local WAIT_BUCKETS = {{{",".join(map(str, WAIT_BUCKETS))}}}
local DURATION_BUCKETS = {{{",".join(map(str, DURATION_BUCKETS))}}}
local function count(key, what, job, queue, outcome)
  redis.call('HINCRBY', key, table.concat({{what, job, queue, outcome}}, '|'), 1)
end
local function observe(key, what, job, queue, value, buckets)
  local bucket = #buckets + 1
  for i = 1, #buckets do
    if value <= buckets[i] then bucket = i break end
  end
  redis.call('HINCRBY', key, table.concat({{what, job, queue, bucket}}, '|'), 1)
  redis.call('HINCRBYFLOAT', key, table.concat({{what, job, queue, 'sum'}}, '|'), math.max(value, 0))
end
"""


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


def _gauges(queues: list[QueueStatus], schedules: list[ScheduleStatus], intervals: dict[str, float]) -> Iterator[Metric]:
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
    stored = redis().hgetall(KEY)
    registry = CollectorRegistry()
    registry.register(_Snapshot([*_counters(stored), *_histograms(stored), *_gauges(queues, schedules, intervals)]))
    return generate_latest(registry)
