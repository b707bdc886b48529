"""What a team needs to operate the service: queues, dead letters, schedules, health and metrics."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from ..contract import BrokerUnavailable, DeadLetter, Health, QueueStatus, ScheduleStatus, Submission
from ..patience import promptly
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
    """In the Prometheus text format."""
    return Response(await promptly(engine.metrics()), media_type="text/plain; version=0.0.4; charset=utf-8")
