"""Submit, follow, collect and cancel jobs; a request only ever queues work and looks at it."""

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header, Path, Query, Response
from fastapi.responses import RedirectResponse, StreamingResponse
from fastapi.security import HTTPBearer
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import Field

from ..contract import JobStatus, JobType, Progress, State, Submission, UnknownJob
from ..engine import follow, promptly
from .access import JSON_BODY, CurrentEngine, JsonBody
from .problems import documented

PREFIX = "/api/v1"
LONGEST_DELAY = 31_536_000  # seconds; a year
GUARDED = [Depends(HTTPBearer(auto_error=False))]
"""For OpenAPI only: access.py does the checking."""

router = APIRouter(
    prefix=f"{PREFIX}/jobs", tags=["jobs"], dependencies=GUARDED, responses=documented(401, 403, 422, 503)
)
JobId = Annotated[str, Path(description="the `id` that the submission answered")]


class Accepted(Submission):
    """The job that a submission led to; its status is at `Location`."""

    state: State | None = Field(description="null if the key's first job is so old that its record has expired")


def location(job_id: str) -> str:
    """Where a job's status is found."""
    return f"{PREFIX}/jobs/{quote(job_id, safe=':~')}"


async def found_status(job_id: JobId, engine: CurrentEngine) -> JobStatus:
    """The status of the job in the path, or UnknownJob."""
    return await promptly(engine.status(job_id))


FoundStatus = Annotated[JobStatus, Depends(found_status)]


@router.get("", summary="Which jobs can be submitted")
async def job_types(engine: CurrentEngine) -> list[JobType]:
    """Every job with the JSON schema of its payload."""
    return engine.job_types()


@router.post(
    "/{name}",
    summary="Submit a job",
    status_code=202,
    responses={200: {"model": Accepted, "description": "The key was used before: the first job"}}
    | documented(400, 404, 409, 413),
    openapi_extra=JSON_BODY,
)
async def submit(
    name: str,
    payload: JsonBody,
    engine: CurrentEngine,
    response: Response,
    idempotency_key: Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)] = None,
    delay: Annotated[float, Query(ge=0, le=LONGEST_DELAY, description="seconds")] = 0,
    queue: Annotated[str | None, Query(description="instead of the job's own queue")] = None,
    priority: Annotated[int | None, Query(ge=0, le=9, description="9 is the most urgent")] = None,
) -> Accepted:
    """Queue a job. With an `Idempotency-Key` a repeated request answers 200 and the first job; another payload 409."""
    submission = await promptly(
        engine.submit(name, payload, key=idempotency_key, delay=delay, queue=queue, priority=priority)
    )
    response.headers["Location"] = location(submission.id)
    if submission.created:
        return Accepted(**submission.model_dump(), state="scheduled" if delay else "queued")
    response.status_code = 200
    state: State | None = None
    with suppress(UnknownJob):
        state = (await promptly(engine.status(submission.id))).state
    return Accepted(**submission.model_dump(), state=state)


@router.get("/{job_id}", summary="A job's status", responses=documented(404))
async def status(found: FoundStatus) -> JobStatus:
    """State, attempts, times, progress and error."""
    return found


@router.get(
    "/{job_id}/result",
    summary="A job's result",
    response_class=StreamingResponse,
    responses={
        200: {"description": "The JSON that the job returned", "content": {"application/json": {"schema": {}}}},
        303: {"description": "The result is kept elsewhere: fetch it at `Location`"},
    }
    | documented(404, 409, 410),
)
async def result(job_id: JobId, engine: CurrentEngine) -> Response:
    """Streamed whatever its size; 409 if the job is unfinished or failed, 410 if the result has expired."""
    found = await promptly(engine.result(job_id))
    if found.url or not found.chunks:
        return RedirectResponse(str(found.url), 303)
    return StreamingResponse(found.chunks, media_type=found.media_type, headers={"Content-Length": str(found.size)})


@router.get(
    "/{job_id}/events",
    summary="Follow a job",
    response_class=EventSourceResponse,
    responses=documented(404),
)
async def events(found: FoundStatus, engine: CurrentEngine) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events: `state` with the status, `progress` with stage and counts; the final `state` is the last one.

    An outage of the broker only pauses the stream. A browser's EventSource reconnects to a stream that ended: close it
    when the final state has come.
    """
    state, progress = None, Progress()
    with suppress(UnknownJob):  # its record expired meanwhile
        async for current in follow(engine, found):
            if current.progress != progress:
                progress = current.progress
                yield ServerSentEvent(event="progress", data=progress)
            if (now := (current.state, current.attempts, current.stalled)) != state:
                state = now
                yield ServerSentEvent(event="state", data=current)


@router.delete("/{job_id}", summary="Cancel a job", status_code=202, responses=documented(404))
async def cancel(job_id: JobId, engine: CurrentEngine) -> JobStatus:
    """A waiting job never starts, a running one is asked to stop, an ended one keeps its state."""
    return await promptly(engine.cancel(job_id))
