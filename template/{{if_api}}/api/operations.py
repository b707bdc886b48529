"""What a team needs to operate the service: queues, dead letters, schedules, health and metrics.

Counters in a worker's memory vanish with a killed process: the engine keeps them in the broker, and any API process
can tell them.
"""

import asyncio
from collections.abc import Iterator
from itertools import accumulate
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from pydantic import BaseModel

from ..contract import (
    DURATION_BUCKETS,
    WAIT_BUCKETS,
    BrokerUnavailable,
    DeadLetter,
    Health,
    JobType,
    QueueStatus,
    ScheduleStatus,
    Submission,
)
from ..engine import promptly
from ..queues import QUEUES
from .access import CurrentEngine
from .jobs import GUARDED, PREFIX, location
from .problems import documented

router = APIRouter(prefix=PREFIX, tags=["operations"], dependencies=GUARDED, responses=documented(401, 403, 422, 503))
probes = APIRouter(tags=["health"])


class Probe(BaseModel):
    """The answer of a probe that is content."""

    status: Literal["ok"] = "ok"


@router.get("/queues", summary="Backlog of each queue")
async def queues(engine: CurrentEngine) -> list[QueueStatus]:
    """Depth, age of the oldest due job, jobs in flight and live workers."""
    return await promptly(engine.queues())


@router.get("/schedules", summary="Recurring jobs")
async def schedules(engine: CurrentEngine) -> list[ScheduleStatus]:
    """When each fired last and fires next; `silent` marks one that should have fired by now."""
    return await promptly(engine.schedules())


@router.post("/schedules/{name}/pause", summary="Pause a schedule", status_code=204, responses=documented(404))
async def pause(name: str, engine: CurrentEngine) -> None:
    """It fires no more, whatever is restarted, until it is resumed; meanwhile it is not `silent`."""
    await promptly(engine.pause(name))


@router.post("/schedules/{name}/resume", summary="Resume a schedule", status_code=204, responses=documented(404))
async def resume(name: str, engine: CurrentEngine) -> None:
    """It fires again from its next time on; what it missed is not made up for."""
    await promptly(engine.resume(name))


@router.post("/schedules/{name}/run", summary="Run a schedule's job now", status_code=202, responses=documented(404))
async def fire(name: str, engine: CurrentEngine, response: Response) -> Submission:
    """Beside its times, which stay as they are, and also while it is paused."""
    submission = await promptly(engine.fire(name))
    response.headers["Location"] = location(submission.id)
    return submission


@router.get(
    "/dead-letters",
    summary="Jobs that a person must look at",
    response_model_exclude={"__all__": {"payload", "traceback"}},
)
async def dead_letters(
    engine: CurrentEngine,
    job: str | None = None,
    queue: str | None = None,
    reason: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[DeadLetter]:
    """Newest first, without payload and traceback."""
    return await promptly(engine.dead_letters(job=job, queue=queue, reason=reason, limit=limit))


@router.get("/dead-letters/{job_id}", summary="One dead letter whole", responses=documented(404))
async def dead_letter(job_id: str, engine: CurrentEngine) -> DeadLetter:
    """With its payload, error and traceback."""
    return await promptly(engine.dead_letter(job_id))


@router.post(
    "/dead-letters/{job_id}/replay",
    summary="Run a dead letter again",
    status_code=202,
    responses={200: {"model": Submission, "description": "It was replayed before: that job"}} | documented(404, 409),
)
async def replay(job_id: str, engine: CurrentEngine, response: Response) -> Submission:
    """As a new job that keeps the link to this one; replaying twice runs once."""
    submission = await promptly(engine.replay(job_id))
    response.headers["Location"] = location(submission.id)
    if not submission.created:
        response.status_code = 200
    return submission


@router.delete("/dead-letters/{job_id}", summary="Forget a dead letter", status_code=204, responses=documented(404))
async def discard(job_id: str, engine: CurrentEngine) -> None:
    """Its idempotency key becomes free again."""
    await promptly(engine.discard(job_id))


@probes.get("/health/live", summary="Is this process alive")
async def live() -> Probe:
    """Says nothing of the broker: an outage must not restart healthy processes."""
    return Probe()


@probes.get("/health/ready", summary="Can jobs be submitted", responses=documented(503))
async def ready(engine: CurrentEngine) -> Probe:
    """503 while the broker does not answer."""
    await promptly(engine.ping())
    return Probe()


@probes.get(
    "/health/jobs",
    summary="Do jobs flow",
    dependencies=GUARDED,
    responses={503: {"model": Health, "description": "They do not: see reasons"}} | documented(401, 403),
)
async def jobs(engine: CurrentEngine, response: Response) -> Health:
    """Broker reachable, a live worker on every queue, backlogs within their thresholds."""
    try:
        health = await promptly(engine.health())
    except BrokerUnavailable as error:
        health = Health(ok=False, broker=False, reasons=[str(error)])
    if not health.ok:
        response.status_code = 503
    return health


@probes.get(
    "/metrics",
    summary="Metrics of the fleet",
    dependencies=GUARDED,
    response_class=PlainTextResponse,
    responses=documented(401, 403, 503),
)
async def metrics(engine: CurrentEngine) -> Response:
    """In the Prometheus text format; every API process tells the same totals: aggregate with `max by`, never `sum`."""
    looks = asyncio.gather(engine.counts(), engine.queues(), engine.schedules())
    counts, queues, schedules = await promptly(looks)
    counts = dict.fromkeys(_expected(engine.job_types()), 0.0) | counts
    registry = CollectorRegistry()
    registry.register(_Snapshot([*_counters(counts), *_histograms(counts), *_gauges(queues, schedules)]))
    return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")


def _expected(types: list[JobType]) -> Iterator[str]:
    """Each job's counters exist from the start: the rise of one that appears with its first failure is not seen."""
    for kind in types:
        yield from (f"{what}|{kind.name}|{kind.queue}|" for what in ("enqueued", "started"))
        outcomes = ("succeeded", "retried", "dead", "timed_out")
        yield from (f"finished|{kind.name}|{kind.queue}|{outcome}" for outcome in outcomes)


def _counters(counts: dict[str, float]) -> Iterator[Metric]:
    started = CounterMetricFamily("jobs_started", "Runs begun.", labels=["job", "queue"])
    finished = CounterMetricFamily("jobs_finished", "Runs ended, by outcome.", labels=["job", "queue", "outcome"])
    enqueued = CounterMetricFamily("jobs_enqueued", "Jobs accepted.", labels=["job", "queue"])
    families = {"started": started, "enqueued": enqueued}
    for field, value in sorted(counts.items()):
        what, job, queue, outcome = field.split("|")
        if what == "finished":
            finished.add_metric([job, queue, outcome], value)
        elif what in families:
            families[what].add_metric([job, queue], value)
    yield from (enqueued, started, finished)


def _histograms(counts: dict[str, float]) -> Iterator[Metric]:
    for what, name, text, bounds in (
        ("wait", "jobs_queue_wait_seconds", "From due to started.", WAIT_BUCKETS),
        ("duration", "jobs_duration_seconds", "Length of a run.", DURATION_BUCKETS),
    ):
        family = HistogramMetricFamily(name, text, labels=["job", "queue"])
        series: dict[tuple[str, str], dict[str, float]] = {}
        for field, value in counts.items():
            kind, job, queue, bucket = field.split("|")
            if kind == what:
                series.setdefault((job, queue), {})[bucket] = value
        for (job, queue), buckets in sorted(series.items()):
            edges = [*map(str, bounds), "+Inf"]
            totals = accumulate(buckets.get(str(i), 0.0) for i in range(1, len(edges) + 1))
            family.add_metric([job, queue], list(zip(edges, totals, strict=True)), buckets.get("sum", 0.0))
        yield family


def _gauges(queues: list[QueueStatus], schedules: list[ScheduleStatus]) -> Iterator[Metric]:
    for name, text, attribute in (
        ("jobs_queue_depth", "Jobs in the queue: waiting, delayed and in flight.", "depth"),
        ("jobs_queue_oldest_age_seconds", "Age of the oldest due job.", "oldest_age"),
        ("jobs_in_flight", "Jobs taken by a worker and not finished.", "in_flight"),
        ("jobs_dead_letter_depth", "Dead letters.", "dead_letters"),
        ("jobs_workers", "Live workers that read the queue.", "workers"),
        ("jobs_queue_problem", "1 if something is wrong with the queue in the broker, see /health/jobs.", "problem"),
    ):
        family = GaugeMetricFamily(name, text, labels=["queue"])
        for queue in queues:
            value = getattr(queue, attribute)
            family.add_metric([queue.name], bool(value) if attribute == "problem" else value)
        yield family
    for name, text, attribute in (
        ("jobs_queue_max_depth", "Depth above which the queue is unhealthy, from queues.py.", "max_depth"),
        ("jobs_queue_max_age_seconds", "Age above which it is, from queues.py.", "max_age"),
    ):
        family = GaugeMetricFamily(name, text, labels=["queue"])
        for limits in QUEUES:
            family.add_metric([limits.name], getattr(limits, attribute))
        yield family
    last = GaugeMetricFamily("jobs_schedule_last_enqueue_timestamp_seconds", "Last firing.", labels=["schedule"])
    due = GaugeMetricFamily(
        "jobs_schedule_next_enqueue_timestamp_seconds", "When it fires, or should have fired.", labels=["schedule"]
    )
    interval = GaugeMetricFamily("jobs_schedule_interval_seconds", "Longest gap between firings.", labels=["schedule"])
    for schedule in schedules:
        last.add_metric([schedule.name], schedule.last_run_at or 0.0)
        interval.add_metric([schedule.name], schedule.interval)
        if schedule.next_run_at:  # a paused one has none
            due.add_metric([schedule.name], schedule.next_run_at)
    yield from (last, due, interval)


class _Snapshot:
    def __init__(self, families: list[Metric]) -> None:
        self.families = families

    def collect(self) -> list[Metric]:
        return self.families
