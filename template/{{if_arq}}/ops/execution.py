"""Run one job that this worker holds: with its limits, retried by policy, waiting without spending a try, ending once.

arq retries no ordinary exception, keeps no trace of what it gives up before running it, and takes an error in a hook as
its own end. Here whatever comes of a run is one step of record.lua.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from arq.utils import ms_to_datetime
from arq.worker import Retry
from pydantic_core import from_json

from .. import telemetry
from ..contract import State
from ..documents import NotJsonError, encode
from ..runtime.bounds import is_ours
from ..runtime.connection import dumps, patiently, text, texts
from ..runtime.errors import describe, describe_traceback, shorten
from ..runtime.job import Job
from ..runtime.progress import JobCancelled, JobContext, running
from ..runtime.record import flat, job_key, queue_key, records
from ..runtime.results import keep, stored
from ..runtime.retry import PermanentError, PoisonError, Reason, Snooze, TimedOut
from ..runtime.workflows import count, numbers, received
from . import dead_letters

log = structlog.get_logger(__name__)
Hook = Callable[[dict[Any, Any]], Awaitable[None]]
NOT_BEGUN = {
    "skipped": "skipped: {} is still running",
    "expired": "expired: it should have begun {} s ago at the latest",
}
LONGEST_DELAY = 10 * 366 * 86_400.0  # seconds; `Snooze(inf)` must be a number, too


@dataclass(eq=False, slots=True)
class Taken:
    """A job that this worker holds, and what to do with it: run, or what else `start` in record.lua says."""

    action: str
    id: str
    queue: str
    priority: int
    attempt: int
    message: bytes
    name: str
    key: str | None
    carried: dict[str, str]  # trace_id, and what tracing needs
    root: str
    input: str | None
    failed_step: str | None
    polls: int
    detail: str
    began: float = field(default_factory=time.monotonic)
    stopped: str = ""  # why the worker stops it: cancelled, draining, given up
    ending: bool = False  # its end is being written down: too late to stop it
    waits: bool = False  # to run alone: its limits do not count yet
    watched: telemetry.Run | None = None

    @classmethod
    def of(cls, reply: Sequence[Any]) -> "Taken":
        """From an answer of `take`."""
        action, job_id, queue, priority, attempts, message, known, detail = reply
        values = [None if value is None else text(value) for value in known]
        values += [None] * (18 - len(values))
        _, name, key, trace_id, root, given, failed_step, *_, polls, parent, state = values
        identity = text(job_id)
        context = {"trace_id": trace_id or identity, "traceparent": parent, "tracestate": state}
        carried = {field: value for field, value in context.items() if value}
        return cls(
            text(action), identity, text(queue), int(priority), int(attempts or 0), message, name or "", key or None,
            carried, root or identity, given, failed_step, int(polls or 0),
            text(detail) if isinstance(detail, bytes) else str(detail),
        )  # fmt: skip


class Execution:
    """The runs of one worker process: `jobs` by name, arq's `ctx` and hooks around a job, the owner of what it holds,
    and what to call when a run has ended and only its end is still to be written down.
    """

    def __init__(
        self,
        jobs: Mapping[str, Job[Any, Any]],
        ctx: Mapping[Any, Any],
        owner: str,
        freed: Callable[[], None],
        hooks: Mapping[str, Hook | None],
    ) -> None:
        self.jobs = jobs
        self.ctx = ctx
        self.owner = owner
        self.freed = freed
        self.hooks = hooks
        self.ended: Counter[str] = Counter()  # runs by the state that they led to

    async def run(self, taken: Taken) -> None:
        """Do what `taken` says, and write its end down; whatever the job does, nothing is raised."""
        about = (taken.name or "undecodable", taken.queue, taken.id, taken.attempt, taken.carried)
        taken.watched = telemetry.Run("arq", *about)
        if is_ours(taken.id):  # its dead letter would be a key of ours
            await self._finish(taken, "failed", "refused", error=f"{taken.id!r} cannot be a job's id")
            return
        try:
            call = _read(taken)
        except ValueError as error:
            letter = dead_letters.undecodable(taken.id, taken.queue, taken.message, describe(error))
            await self._finish(taken, "failed", "refused", letter=letter, error=describe(error), priority=0)
            return
        try:
            await self._act(taken, call)
        except Exception as error:  # its end cannot be written down as it is: Snooze("soon")
            await self._dead(taken, call, "dead", "unexpected", error)

    async def _act(self, taken: Taken, call: dict[str, Any]) -> None:
        job = self.jobs.get(taken.name)
        if job is None:
            await self._dead(taken, call, "refused", "unknown job", ValueError(f"no job is named {taken.name!r} here"))
        elif taken.action == "run":
            await self._run(job, taken, call)
        elif taken.action == "duplicate":  # another job did this already, under the same key
            [value] = await patiently(lambda: stored(taken.detail))
            await self._ended(taken, call, "succeeded", "succeeded", dumps(value))
        elif taken.action in NOT_BEGUN:
            why = NOT_BEGUN[taken.action].format(taken.detail)
            await self._ended(taken, call, "cancelled", taken.action, dumps(why), error=why)
        else:
            await self._dead(taken, call, "dead", "poison", PoisonError(f"killed its worker {taken.detail} times"))

    async def _run(self, job: Job[Any, Any], taken: Taken, call: dict[str, Any]) -> None:
        trace_id = taken.carried["trace_id"]
        running.set(
            JobContext(taken.id, job.name, taken.attempt, taken.queue, taken.key, trace_id, taken.root, taken.polls)
        )
        numbers.set(count(1))
        limit = asyncio.timeout(job.soft_limit)
        ctx = {**self.ctx, "job_id": taken.id, "job_try": taken.attempt, "enqueue_time": ms_to_datetime(call["et"])}
        try:
            values = await _arguments(job, taken, call)
            async with limit:
                encoded = _encoded(job, await self._between_hooks(ctx, lambda: job.function(ctx, **values)))
                value = await patiently(lambda: keep(taken.id, encoded))  # also while the disk is full
            await self._ended(taken, call, "succeeded", "succeeded", value, result_size=len(encoded))
        except BaseException as error:  # SystemExit and its kind as well, or a job ends the worker with all its jobs
            if isinstance(error, TimeoutError) and limit.expired():
                error = TimedOut(f"longer than {job.soft_limit:g} s").with_traceback(error.__traceback__)
            await self._raised(job, taken, call, error)
        await self._after("after_job_end", ctx)

    async def _between_hooks(self, ctx: dict[Any, Any], function: Callable[[], Awaitable[Any]]) -> Any:
        """An error in arq's `on_job_start` is one of the job."""
        if hook := self.hooks["on_job_start"]:
            await hook(ctx)
        try:
            return await function()
        finally:
            await self._after("on_job_end", ctx)

    async def _after(self, name: str, ctx: dict[Any, Any]) -> None:
        """A job has ended as it has: an error in a hook after it changes nothing, where arq would end the worker."""
        if hook := self.hooks[name]:
            try:
                await hook(ctx)
            except Exception:
                log.exception("hook failed", hook=name)

    async def _raised(self, job: Job[Any, Any], taken: Taken, call: dict[str, Any], error: BaseException) -> None:
        if isinstance(error, JobCancelled) or taken.stopped == "cancelled":
            await self._ended(taken, call, "cancelled", "cancelled", dumps("cancelled"), message="cancelled")
        elif taken.stopped == "draining":  # whatever it raises then: we stopped it, and it will run again
            await self.hand_back(taken)
        elif taken.stopped == "given up":  # its end is written down already
            return
        elif isinstance(error, Snooze):
            why = shorten(error.why or str(error))
            await self._finish(taken, "scheduled", "snoozed", delay=error.delay, message=why)
        else:
            await self._failed(job, taken, call, error)

    async def give_up(self, taken: Taken, stack: str) -> None:
        """It runs over its hard limit and does not hear that it should stop: what it returns later counts no more."""
        job = self.jobs[taken.name]
        error = TimedOut(f"longer than {job.hard_limit:g} s, and does not stop")
        await self._dead(taken, _read(taken), "timed_out", "timed out", error, stack)

    async def hand_back(self, taken: Taken, delay: float = 0) -> None:
        """We stopped the run, not the job: it will run again, without a try spent. With a delay it stays suspect."""
        await self._finish(taken, "queued", "handed_back", delay=delay)

    async def _failed(self, job: Job[Any, Any], taken: Taken, call: dict[str, Any], error: BaseException) -> None:
        decision = _decide(job, taken.attempt, error)
        if isinstance(decision, str):
            await self._dead(taken, call, "timed_out" if decision == "timed out" else "dead", decision, error)
        else:
            if taken.watched:
                taken.watched.failed(error)
            await self._finish(taken, "retrying", "retried", delay=decision, error=describe(error))

    async def _dead(
        self, taken: Taken, call: dict[str, Any], outcome: str, reason: str, error: BaseException, trace: str = ""
    ) -> None:
        described = describe(error)
        if taken.watched:
            taken.watched.failed(error)
        record = texts(await patiently(lambda: records().client.hgetall(job_key(taken.id))))
        letter = dead_letters.encode(
            taken.id, record, call["a"], call["k"],
            reason=reason, error=described, traceback=trace or describe_traceback(error),
        )  # fmt: skip
        shown = dumps({"type": type(error).__name__, "message": described})
        await self._ended(taken, call, "failed", outcome, shown, letter=letter, error=described)

    async def _ended(
        self, taken: Taken, call: dict[str, Any], state: State, outcome: str, value: bytes, **fields: Any
    ) -> None:
        result = _document(taken, call, ok=state == "succeeded", value=value)
        await self._finish(taken, state, outcome, result=result, **fields)

    async def _finish(self, taken: Taken, state: State, outcome: str, **fields: Any) -> None:
        taken.ending = True
        self.freed()
        self.ended[state] += 1
        await patiently(lambda: records().step("finish", *ending(taken, self.owner, state, outcome, **fields)))
        if taken.watched:
            taken.watched.ended(outcome, **{name: fields.get(name) for name in ("error", "message", "result_size")})


def _decide(job: Job[Any, Any], attempt: int, error: BaseException) -> float | Reason:
    """Seconds until the next attempt, or the reason to give up; arq's own `Retry` means one whatever the policy."""
    if not isinstance(error, Retry):
        return job.retry.decide(attempt, error)
    if attempt >= job.retry.attempts:
        return "exhausted"
    return job.retry.delay(attempt, error) if error.defer_score is None else error.defer_score / 1000


def ending(
    taken: Taken, owner: str, state: State, outcome: str,
    result: bytes = b"", delay: float = 0, letter: bytes = b"", **fields: Any,
) -> list[Any]:  # fmt: skip
    """What the step `finish` wants to know; `delay` in seconds."""
    place = (taken.name, taken.queue, int(min(max(0.0, delay), LONGEST_DELAY) * 1000))
    return [taken.id, owner, state, outcome, result, *place, letter, *flat(fields)]


def _document(taken: Taken, call: dict[str, Any], *, ok: bool, value: bytes) -> bytes:
    """arq's result document around a result, or an error, that is JSON already."""
    now = time.time()
    head = {
        "t": taken.attempt,
        "f": taken.name,
        "a": call.get("a", []),
        "k": call.get("k", {}),
        "et": call.get("et", 0),
        "s": ok,
        "st": int((now - time.monotonic() + taken.began) * 1000),
        "ft": int(now * 1000),
        "q": queue_key(taken.queue, taken.priority),
        "id": taken.id,
    }
    return b'{"r":' + value + b"," + dumps(head)[1:]


def _read(taken: Taken) -> dict[str, Any]:
    """arq's message; raises ValueError if it is none."""
    if not taken.message:
        raise ValueError("its message is gone")
    call = from_json(taken.message, allow_inf_nan=False)
    fits = isinstance(call, dict) and isinstance(call.get("a"), list) and isinstance(call.get("k"), dict)
    if not fits or not isinstance(call.get("et"), int):
        raise ValueError("the text in the queue is not a message of arq's in JSON")
    return call


async def _arguments(job: Job[Any, Any], taken: Taken, call: dict[str, Any]) -> dict[str, Any]:
    try:
        values = job.bind(tuple(call["a"]), call["k"])
        if given := taken.input:
            first = next(iter(job.arguments.model_fields))
            values = {first: await patiently(lambda: received(given, taken.failed_step)), **values}
        return job.validate(values)
    except (TypeError, ValueError) as error:
        raise PermanentError(f"the payload does not fit {job.name}: {error}") from error


def _encoded(job: Job[Any, Any], result: object) -> bytes:
    try:
        return encode(result)
    except NotJsonError as error:
        raise PermanentError(f"{job.name} returned {type(result).__name__}, which is not JSON: {error}") from error
