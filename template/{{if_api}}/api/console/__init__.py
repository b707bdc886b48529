"""The console: queues, jobs, failures, dead letters and schedules for a person with a browser, and what to do.

Who has to remember a command at three in the morning acts late. Pages come from the same engine as the API; links and
forms are enough to use them, and server-sent events keep them fresh.
"""

import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.datastructures import QueryParams

from ...contract import FINAL, BrokerUnavailable, ContractError, InvalidPayload, UnknownJob
from ...documents import decode
from ...engine import Engine, promptly
from ...queues import QUEUES
from ...settings import settings
from .. import jobs
from ..access import CONSOLE, LOGIN, CurrentEngine, end_session, limited_body, start_session
from ..problems import PROBLEMS
from .pages import Watch, example, page, pretty, section, watching

__all__ = ["Watch", "router", "watching"]

LIVE = 2.0  # seconds between two looks of an overview
LIVE_JOB = 0.5  # seconds between two looks at one job
STREAM = 900  # seconds; then the browser connects again, if its session still lives
SECTIONS = ("status", "queues", "running", "failures", "letters", "schedules", "workers")
LISTED = 200  # dead letters on their page


class Page(APIRoute):
    """A route whose errors are pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                response = await handle(request)
                if request.method == "POST":
                    the_watch(request).changed_at = time.time()
                return response
            except ContractError as error:
                code, title = PROBLEMS.get(type(error), (409, "Refused"))
                return page("error", code, title=title, detail=str(error))
            except HTTPException as error:
                return page("error", error.status_code, title=HTTPStatus(error.status_code).phrase, detail=error.detail)

        return answer


async def form(request: Request) -> QueryParams:
    """The fields of the form that was sent."""
    return QueryParams((await limited_body(request)).decode("utf-8", "replace"))


def the_watch(request: Request) -> Watch:
    """The one that the application's lifespan has set up."""
    return request.app.state.watch


Form = Annotated[QueryParams, Depends(form)]
TheWatch = Annotated[Watch, Depends(the_watch)]
router = APIRouter(prefix=CONSOLE, route_class=Page, include_in_schema=False)


def go(*path: str, query: str = "") -> RedirectResponse:
    """After a form: on to a page that can be reloaded."""
    return RedirectResponse("/".join([CONSOLE, *(quote(part, safe=":~") for part in path)]) + query, 303)


@router.get("")
async def overview(engine: CurrentEngine, watch: TheWatch) -> Response:
    look = await watch.look(engine)
    return page("overview", 503 if look.away else 200, look=look, watch=watch, types=engine.job_types())


@router.get("/events", response_class=EventSourceResponse)
async def events(engine: CurrentEngine, watch: TheWatch) -> AsyncIterator[ServerSentEvent]:
    """Each section of the overview when it has changed."""
    seen: dict[str, ServerSentEvent] = {}
    until = time.monotonic() + STREAM
    while await watch.goes_on(LIVE) and time.monotonic() < until:
        look = await watch.look(engine)
        for name in SECTIONS:
            if (event := section(name, look=look, watch=watch)) != seen.get(name):
                seen[name] = event
                yield event


@router.get("/login")
async def ask_for_token() -> Response:
    return page("login", wrong=False) if settings().api_tokens else go()


@router.post("/login")
async def log_in(request: Request, fields: Form) -> Response:
    response = go()
    return response if start_session(request, response, fields.get("token", "")) else page("login", 401, wrong=True)


@router.post("/logout")
async def log_out() -> Response:
    return end_session(RedirectResponse(LOGIN, 303))


@router.get("/submit")
async def ask_for_payload(engine: CurrentEngine, job: str = "") -> Response:
    return _submit_page(engine, {"job": job})


@router.post("/submit")
async def submit(engine: CurrentEngine, fields: Form) -> Response:
    try:
        payload = decode(fields.get("payload", ""))
        delay, priority = float(fields.get("delay") or 0), fields.get("priority")
        if not 0 <= delay <= jobs.LONGEST_DELAY:
            raise ValueError(f"a delay is 0 to {jobs.LONGEST_DELAY} seconds")
        sending = engine.submit(
            fields.get("job", ""),
            payload,
            key=fields.get("key") or None,
            delay=delay,
            queue=fields.get("queue") or None,
            priority=int(priority) if priority else None,
        )
        sent = await promptly(sending)
    except InvalidPayload as error:
        wrong = [f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in error.errors]
        return _submit_page(engine, fields, 422, str(error), wrong)
    except (ContractError, ValueError) as error:
        return _submit_page(engine, fields, PROBLEMS.get(type(error), (422, ""))[0], str(error))
    return go("jobs", sent.id, query="" if sent.created else "?before=1")


def _submit_page(
    engine: Engine, fields: Mapping[str, str], code: int = 200, error: str = "", wrong: Sequence[str] = ()
) -> Response:
    """As it was filled in, or for a job that was just chosen with a payload to start from."""
    types = engine.job_types()
    chosen = next((each for each in types if each.name == fields.get("job")), types[0])
    schema = chosen.payload_schema
    payload = pretty(example(schema, schema.get("$defs", {})))
    filled = {"payload": payload, "key": "", "queue": "", "priority": "", "delay": "0", **fields}
    return page("submit", code, types=types, chosen=chosen, queues=QUEUES, filled=filled, error=error, wrong=wrong)


@router.get("/jobs")
async def find_job(job_id: Annotated[str, Query(alias="id")]) -> Response:
    return go("jobs", job_id.strip())


@router.get("/jobs/{job_id}")
async def job(found: jobs.FoundStatus, before: bool = False) -> Response:
    return page("job", job=found, before=before)


@router.get("/jobs/{job_id}/events", response_class=EventSourceResponse)
async def job_events(found: jobs.FoundStatus, engine: CurrentEngine, watch: TheWatch) -> AsyncIterator[ServerSentEvent]:
    """The section of the job whenever it has changed, until it has ended."""
    until, seen = time.monotonic() + STREAM, None
    while time.monotonic() < until:
        if (event := section("job", job=found)) != seen:
            seen = event
            yield event
        if found.state in FINAL or not await watch.goes_on(LIVE_JOB):
            return
        with suppress(BrokerUnavailable, UnknownJob):
            found = await promptly(engine.status(found.id))


@router.get("/jobs/{job_id}/result")
async def result(job_id: str, engine: CurrentEngine) -> Response:
    return await jobs.result(job_id, engine)


@router.post("/jobs/{job_id}/cancel")
async def cancel(job_id: str, engine: CurrentEngine) -> Response:
    await promptly(engine.cancel(job_id))
    return go("jobs", job_id)


@router.get("/dead-letters")
async def letters(engine: CurrentEngine, job: str = "", queue: str = "", reason: str = "") -> Response:
    chosen = {"job": job or None, "queue": queue or None, "reason": reason or None}
    found = await promptly(engine.dead_letters(**chosen, limit=LISTED))
    return page("letters", letters=found, types=engine.job_types(), queues=QUEUES, chosen=chosen, most=LISTED)


@router.post("/dead-letters")
async def act_on_letters(engine: CurrentEngine, fields: Form) -> Response:
    """Replay or discard all that are ticked; one that is refused does not stop the others."""
    acts = {"replay": engine.replay, "discard": engine.discard}
    refused = []
    for job_id in fields.getlist("id") if fields.get("act") in acts else []:
        try:
            await promptly(acts[fields["act"]](job_id))
        except BrokerUnavailable:
            raise
        except ContractError as error:
            refused.append(str(error))
    return page("error", 409, title="Some were refused", detail="\n".join(refused)) if refused else go("dead-letters")


@router.get("/dead-letters/{job_id}")
async def letter(job_id: str, engine: CurrentEngine) -> Response:
    return page("letter", letter=await promptly(engine.dead_letter(job_id)))


@router.post("/dead-letters/{job_id}/replay")
async def replay(job_id: str, engine: CurrentEngine) -> Response:
    return go("jobs", (await promptly(engine.replay(job_id))).id)


@router.post("/dead-letters/{job_id}/discard")
async def discard(job_id: str, engine: CurrentEngine) -> Response:
    await promptly(engine.discard(job_id))
    return go("dead-letters")


@router.post("/schedules/{name}/pause")
async def pause(name: str, engine: CurrentEngine) -> Response:
    await promptly(engine.pause(name))
    return go(query="#schedules")


@router.post("/schedules/{name}/resume")
async def resume(name: str, engine: CurrentEngine) -> Response:
    await promptly(engine.resume(name))
    return go(query="#schedules")
