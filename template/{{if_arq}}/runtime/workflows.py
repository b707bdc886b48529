"""Chains, with steps that are undone when a later one fails, and groups with a fan-in that hears of every part.

Scripts that wait for other jobs block a worker, and counters kept by the jobs themselves are wrong after the first
crash. Here the step of record.lua that ends a job also starts what waits for it. Ids derive from the job that starts a
workflow, so that a second run of it finds the first one's steps instead of making new ones (a new poll makes new ones).
"""

import asyncio
import inspect
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from itertools import count, zip_longest
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from pydantic import BaseModel
from pydantic_core import from_json

from .. import telemetry
from .connection import dumps, patiently
from .job import Job
from .progress import current_job
from .record import records
from .results import resolve, stored
from .submission import Call, Spec, prepare, send

P = ParamSpec("P")
T = TypeVar("T")
BATCH = 200  # parts that are submitted at once


class Outcome(BaseModel, Generic[T]):
    """What a fan-in hears of a part: its value, or its error and its job's id."""

    ok: bool
    value: T | None = None
    error: str | None = None
    job_id: str | None = None


# Jobs by what they are called with, which type checkers compare better than Job's own parameters.
Taking = Callable[[Any, T], Awaitable[Any]]
FanIn = Callable[Concatenate[Any, list[Outcome[T]], P], Awaitable[Any]]
numbers: ContextVar[count] = ContextVar("numbers")  # of the workflows that the running job starts


def _workflow() -> str:
    job = current_job()
    return f"{job.id}.{job.polls}.{next(numbers.get())}" if job else str(uuid.uuid4())


async def chain(*links: Call[Any] | Taking[Any], on_error: Taking[str] | None = None) -> str:
    """Run one after the other; answers the last step's id. A link that is a job, not a call, gets the result before it.

    When a step fails for good or is cancelled, those after it fail with its name, the calls given by `undo` to it and
    to those before it run in reverse (a step that began may have had its effect), and then `on_error` with the id of
    the step. Cancelling a later step cancels the one whose turn it is. A dead step that is replayed continues with the
    rest. Raises ValueError without a link.
    """
    if not links:
        raise ValueError("a chain needs at least one link")
    workflow = _workflow()
    ids = [f"{workflow}.{number}" for number in range(len(links))]
    steps = [_link(link, own, before) for link, own, before in zip(links, ids, [None, *ids], strict=False)]
    undo: list[Spec] = []
    last = [prepare(_job(on_error), {}, job_id=f"{workflow}.error", given="failed")] if on_error else []
    documents = []
    for link, step, before, after in zip(links, steps, [None, *ids[:-1]], [*ids[1:], None], strict=True):
        call = link.compensation if isinstance(link, Call) else None
        if call:
            undo.insert(0, prepare(call.job, call.arguments, job_id=f"{step.id}.undo"))
        order = {"next": after, "after": before, "own_undo": 1 if call else None}
        with telemetry.sending("arq", step.name, step.fields["queue"], step.id) as carried:
            documents.append(step.document(**order, on_error=_sequence([*undo, *last]), **carried))
    step = records().sequence
    await (patiently(lambda: step(documents)) if current_job() else step(documents))
    return ids[-1]


async def group(parts: Sequence[Call[T]], then: FanIn[T, P], *args: P.args, **kwargs: P.kwargs) -> str:
    """Run parts in parallel, then `then` with the list of their outcomes and these arguments; answers its id.

    Nothing is submitted if anything does not fit: raises TypeError, pydantic.ValidationError.
    """
    workflow, last = _workflow(), _job(then)
    _, _, *given = inspect.signature(last.function).bind(None, None, *args, **kwargs).arguments.items()
    fan_in = prepare(last, dict(given), job_id=f"{workflow}.then", given=f"group:{workflow}:{len(parts)}")
    specs = [
        prepare(call.job, call.arguments, job_id=f"{workflow}.{number}", group=workflow, part=number)
        for number, call in enumerate(parts)
    ]
    if not parts:
        await send(fan_in)
        return fan_in.id

    async def submit() -> None:
        with telemetry.sending("arq", fan_in.name, fan_in.fields["queue"], fan_in.id) as carried:
            await records().group(workflow, len(parts), fan_in.document(**carried))
        for start in range(0, len(specs), BATCH):
            await asyncio.gather(*(send(spec, claim=False) for spec in specs[start : start + BATCH]))

    await (patiently(submit) if current_job() else submit())
    return fan_in.id


async def received(given: str, failed_step: str | None) -> Any:
    """The first argument of a job that gets it from the steps before it; `given` is what `prepare` was told."""
    kind, _, source = given.partition(":")
    if kind == "failed":
        return failed_step
    if kind == "result":
        [value] = await stored(source)
        return await resolve(value)
    workflow, _, size = source.rpartition(":")
    parts = [str(number) for number in range(int(size))]
    found = await records().client.hmget(f"group:{workflow}", parts) if parts else []
    outcomes = [from_json(outcome) for outcome in found]
    done = [outcome for outcome in outcomes if outcome["ok"]]
    for outcome, value in zip(done, await stored(*(outcome["job_id"] for outcome in done)), strict=True):
        outcome["value"] = await resolve(value)
    return outcomes


def _job(declared: Callable[..., Any]) -> Job[..., Any]:
    if not isinstance(declared, Job):
        raise TypeError(f"{declared!r} is no job: declare it with @job")
    return declared


def _link(link: Call[Any] | Callable[..., Any], job_id: str, before: str | None) -> Spec:
    if isinstance(link, Call):
        return prepare(link.job, link.arguments, job_id=job_id)
    return prepare(_job(link), {}, job_id=job_id, given=f"result:{before}" if before else None)


def _sequence(specs: Sequence[Spec]) -> str | None:
    """Jobs to start one after the other, as record.lua reads them."""
    following = [spec.id for spec in specs[1:]]
    documents = [spec.document(next=after) for spec, after in zip_longest(specs, following)]
    return dumps(documents).decode() if specs else None
