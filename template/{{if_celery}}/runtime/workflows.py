"""End what waits for a job that ended without success: later steps, fan-in, error callbacks.

Celery reports a failed part to its fan-in and calls its error callback. For a part that was cancelled, skipped, expired
or refused it does less, and an outer fan-in or the record of a later step would wait until it expires. Here every such
end passes `end`. It may run twice: if its worker dies on the way, the next delivery of the job's message repeats it.
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from celery import states
from celery.app.task import Context

from .errors import describe
from .record import records

Step = Mapping[str, Any]  # a signature, or the dictionary that JSON makes of one


def parts(step: Step) -> list[Step] | None:
    """The signatures in a chain, group or chord, in their order; None for one job."""
    kind, content = step.get("subtask_type"), step.get("kwargs") or {}
    if kind == "chord":
        header = content["header"]
        header = header["kwargs"]["tasks"] if isinstance(header, Mapping) else header
        return [*header, *filter(None, [content.get("body")])]
    return list(content["tasks"]) if kind in ("chain", "group") else None


def jobs_in(steps: Iterable[Step]) -> Iterator[Step]:
    """All jobs that these steps consist of, and those that follow them."""
    for step in steps:
        inner = parts(step)
        yield from [step] if inner is None else jobs_in(inner)
        yield from jobs_in(_options(step).get("chain") or [])


def followers(options: Mapping[str, Any]) -> dict[str, tuple[str, bool]]:
    """The jobs that a message with these options brings about later, at any depth, by id: name, is it in its chain."""
    later = [(step, True) for step in jobs_in(options.get("chain") or [])]
    later += [(step, False) for step in jobs_in(filter(None, [options.get("chord")]))]
    return {job_id: (step["task"], own) for step, own in later if (job_id := _options(step).get("task_id"))}


def end(backend: Any, request: Context, error: BaseException, state: str, text: str) -> None:
    """`request` ended as failed or cancelled, because of `text`: end what waits for it."""
    steps = request.chain or []
    said = text.removeprefix(state).lstrip(": ")
    why = f"step {request.get('task')} (job {request.id}) {state}" + (f": {said}" if said else "")
    _give_up(backend, steps, error, why)
    _call_errbacks(backend, request, error)
    if request.chord:
        _report(backend, request, error, text)


def end_fan_in(backend: Any, fan_in: Step, error: BaseException) -> None:
    """A part of it did not succeed, so that it cannot run: end it, and what waits for it."""
    _give_up(backend, [fan_in], error, describe(error))
    for first in _firsts(fan_in):
        _call_errbacks(backend, _context(first), error)


def _give_up(backend: Any, steps: list[Step], error: BaseException, why: str) -> None:
    """End steps that will not run. The first is the last of the chain, as in Celery's messages."""
    if not steps:
        return
    jobs = [(job_id, step["task"]) for step in jobs_in(steps) if (job_id := _options(step).get("task_id"))]
    records().give_up([(job_id, name, why, backend.encode_failure(job_id, error)) for job_id, name in jobs])
    for last in _lasts(steps[0]):
        if _options(last).get("chord"):
            _report(backend, _context(last), error, why)


def _report(backend: Any, part: Context, error: BaseException, text: str) -> None:
    """Return a part without a result to its fan-in: as an `Outcome` if its job is declared so, else as a failure."""
    if getattr(backend.app.tasks.get(part.get("task")), "outcome", False):
        outcome = {"ok": False, "error": text, "job_id": part.id}
        backend.on_chord_part_return(part, states.SUCCESS, outcome)
    else:
        backend.on_chord_part_return(part, states.FAILURE, error)


def _call_errbacks(backend: Any, request: Context, error: BaseException) -> None:
    """Send them under ids that derive from the job, so that a repeated end sends no second one."""
    errbacks = [backend.app.signature(errback) for errback in request.errbacks or []]
    for number, errback in enumerate(errbacks):
        if parts(errback) is None:
            errback.set(task_id=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{request.id} errback {number}")))
    if errbacks:
        backend._call_task_errbacks(Context(vars(request), errbacks=errbacks), error, None)


def _lasts(step: Step) -> Iterator[Step]:
    """The jobs whose end is the end of this step."""
    if after := _options(step).get("chain"):
        yield from _lasts(after[0])
    elif (inner := parts(step)) is None:
        yield step
    else:
        for part in inner if step["subtask_type"] == "group" else inner[-1:]:
            yield from _lasts(part)


def _firsts(step: Step) -> Iterator[Step]:
    """The jobs that a fan-in starts with, each with the error callbacks of what it is in."""
    inner = parts(step)
    if inner is None:
        yield step
        return
    own = _options(step).get("link_error") or []
    chosen = {"group": inner, "chain": inner[:1], "chord": inner[-1:]}[step["subtask_type"]]
    for first in (first for part in chosen for first in _firsts(part)):
        given = _options(first).get("link_error") or []
        errbacks = [*given, *(errback for errback in own if errback not in given)]
        yield {**first, "options": {**_options(first), "link_error": errbacks}}


def _options(step: Step) -> Mapping[str, Any]:
    return step.get("options") or {}


def _context(step: Step) -> Context:
    """The request that the job would have had."""
    options = _options(step)
    own = {"id": options.get("task_id"), "task": step["task"], "group": options.get("group_id")}
    return Context({**options, **own, "errbacks": options.get("link_error"), "delivery_info": {}})
