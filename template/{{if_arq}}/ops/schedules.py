"""The scheduler process: its memory is in Redis, so that two fire once and a new one misses nothing.

arq's cron runs inside each worker: nothing fires while the workers are busy or away, runs overlap, and a missed tick is
lost. Here each firing is submitted under a key made of the schedule's name and due time, which every scheduler reads
from Redis: whoever comes second gets the first one's job. `statuses` tells when firings stop: the dead man's switch.
"""

import asyncio
import signal
import time
from contextlib import suppress
from itertools import pairwise
from threading import Thread
from typing import Any

import structlog
from pydantic_core import from_json

from .. import health, logs
from ..contract import IdempotencyConflict, JobDeclarationError, ScheduleStatus, Submission, UnknownSchedule
from ..documents import jsonable
from ..queues import DEFAULT_QUEUE
from ..runtime import routing
from ..runtime.connection import UNAVAILABLE, close, dumps, redis, server_time, text, texts
from ..runtime.job import Schedule
from ..runtime.results import large_results
from ..settings import settings

log = structlog.get_logger(__name__)
STATE = "schedules"  # hash: name → {"last_run_at", "runs"}, or {"since"} before the first firing
PAUSES = "schedules:pauses"  # hash: name → "paused", or when it was resumed
PAUSED = "paused"
SWEEP = 3600.0  # seconds between removals of expired large results
GRACE = 60.0  # seconds a firing may be late before the schedule counts as silent
LOOK_EVERY = 1.0  # seconds at most between two looks

# What a slow scheduler notes must not replace what another one has noted since.
# KEYS: 1 STATE. ARGV: 1 name, 2 what was read, 3 what to write
NOTE = "if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) end"


def run_scheduler() -> None:
    """Fire schedules until SIGTERM or SIGINT."""
    settings().require_redis_url()
    logs.configure()
    asyncio.run(_until_a_signal(declared()))


async def _until_a_signal(schedules: list[Schedule]) -> None:
    firing = asyncio.create_task(_fire(schedules))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, firing.cancel)
    with suppress(asyncio.CancelledError):
        await firing
    await close()


async def _fire(schedules: list[Schedule]) -> None:
    swept_at = 0.0
    while True:
        health.beat("scheduler")
        await asyncio.sleep(await _tick(schedules))
        if time.time() - swept_at > SWEEP:
            swept_at = time.time()
            Thread(target=_sweep, daemon=True).start()  # not to_thread: the end of the loop would wait for it


async def _tick(schedules: list[Schedule]) -> float:
    """Fire what is due; answers the seconds until the next look."""
    try:
        stored, pauses = await _noted()
        now = await server_time()
        waits = [
            await _look(schedule, stored.get(schedule.name), pauses.get(schedule.name, "0"), now)
            for schedule in schedules
        ]
    except UNAVAILABLE as error:
        log.warning("Redis does not answer, schedules wait", error=str(error))
        return LOOK_EVERY
    return max(0.0, min([LOOK_EVERY, *waits]))


async def _look(schedule: Schedule, stored: bytes | None, pause: str, now: float) -> float:
    if pause == PAUSED:
        return LOOK_EVERY
    if stored is None:
        await redis().hsetnx(STATE, schedule.name, dumps({"since": now}))
        return 0.0
    seen = from_json(stored)
    if _last(seen, pause) > now + GRACE:
        log.warning("the clock was set back: the schedule counts from now", schedule=schedule.name)
        await redis().hdel(PAUSES, schedule.name)
        recounted = {"since": now, "runs": seen.get("runs", 0)}
        await redis().eval(NOTE, 1, STATE, schedule.name, stored, dumps(recounted))
        return 0.0
    due = schedule.due_after(_last(seen, pause))
    if due > now:
        return due - now
    try:
        sent = await _submit(schedule, f"{due:.3f}")
        log.info("schedule fired", schedule=schedule.name, job_id=sent.id, new=sent.created)
    except IdempotencyConflict as error:  # a release with another payload has fired it, or its job is still alive
        log.info("schedule fired before", schedule=schedule.name, why=str(error))
    fired = {"last_run_at": now, "runs": seen.get("runs", 0) + 1}
    await redis().eval(NOTE, 1, STATE, schedule.name, stored, dumps(fired))
    return 0.0


async def _submit(schedule: Schedule, firing: str) -> Submission:
    """Queue its job, once for each firing; with a key of its own only if none is alive."""
    key = schedule.key or f"{schedule.name}@{firing}"
    return await schedule.job.send(schedule.payload or {}, key=key, restart=schedule.key is not None)


def _last(seen: dict[str, Any], resumed: str) -> float:
    """From when its next time counts."""
    return max(float(seen.get("last_run_at") or seen["since"]), float(resumed))


async def _noted() -> tuple[dict[str, bytes], dict[str, str]]:
    """STATE and PAUSES of one moment."""
    async with redis().pipeline() as pipe:
        pipe.hgetall(STATE)
        pipe.hgetall(PAUSES)
        stored, pauses = await pipe.execute()
    return {text(name): seen for name, seen in stored.items()}, texts(pauses)


def _sweep() -> None:
    try:
        removed = large_results().delete_older_than(settings().result_ttl)
    except Exception:  # a store that is away must not stop the schedules; the next sweep comes
        log.exception("expired large results not removed")
    else:
        log.info("expired large results removed", count=removed)


async def statuses() -> list[ScheduleStatus]:
    """Every declared schedule; `silent` if its next firing is overdue."""
    stored, pauses = await _noted()
    now, found = await server_time(), []
    for schedule in declared():
        seen = from_json(stored.get(schedule.name, b"{}"))
        pause = pauses.get(schedule.name, "0")
        paused = pause == PAUSED
        due = schedule.due_after(_last(seen, pause) if seen and not paused else now)
        found.append(
            ScheduleStatus(
                name=schedule.name,
                job=schedule.job.name,
                when=schedule.times,
                queue=schedule.job.queue or DEFAULT_QUEUE,
                last_run_at=seen.get("last_run_at"),
                next_run_at=None if paused else due,
                runs=seen.get("runs", 0),
                silent=now > due + GRACE,
                paused=paused,
                interval=longest_gap(schedule),
            )
        )
    return found


def longest_gap(schedule: Schedule) -> float:
    """Seconds between two firings, the longest of the next dozen (a Cron may skip weekends).

    Counted once an hour: arq takes 50 ms of the event loop for the dozen of a daily Cron.
    """
    now = time.time()
    counted_at, gap = _gaps.get(schedule.name, (0.0, 0.0))
    if now - counted_at > 3600:
        moments = [schedule.due_after(now)]
        for _ in range(12):
            moments.append(schedule.due_after(moments[-1]))
        gap = max(after - before for before, after in pairwise(moments))
        _gaps[schedule.name] = (now, gap)
    return gap


_gaps: dict[str, tuple[float, float]] = {}  # by schedule: when it was counted, seconds


def declared() -> list[Schedule]:
    """The `SCHEDULES` of all modules in jobs/.

    Raises JobDeclarationError if a name stands twice, a payload does not fit, or firings have no time between them.
    """
    schedules: list[Schedule] = routing.declared("SCHEDULES")
    names = [schedule.name for schedule in schedules]
    if len(names) != len(set(names)):
        raise JobDeclarationError(f"SCHEDULES in jobs/: each name may stand once, found {sorted(names)}")
    now = time.time()
    for schedule in schedules:
        if schedule.due_after(now) <= now:
            raise JobDeclarationError(f"schedule {schedule.name} fires without a pause: {schedule.times}")
        try:
            jsonable(schedule.job.validate(schedule.payload or {}))
        except ValueError as error:
            raise JobDeclarationError(f"schedule {schedule.name}: its payload does not fit: {error}") from error
    return schedules


async def pause(name: str) -> None:
    """Let it fire no more until `resume`; raises UnknownSchedule."""
    await redis().hset(PAUSES, _known(name), PAUSED)


async def resume(name: str) -> None:
    """Let it fire again at its next time; raises UnknownSchedule."""
    if await redis().hget(PAUSES, _known(name)) == PAUSED.encode():
        await redis().hset(PAUSES, name, await server_time())


async def fire(name: str) -> Submission:
    """Run its job now, beside its times; raises UnknownSchedule."""
    _known(name)
    [schedule] = [schedule for schedule in declared() if schedule.name == name]
    return await _submit(schedule, f"{time.time():.3f} by hand")


def _known(name: str) -> str:
    names = [schedule.name for schedule in declared()]
    if name not in names:
        raise UnknownSchedule(f"there is no schedule {name!r}; there are {', '.join(names)}")
    return name


async def make_due(job: str) -> None:
    """Let the schedules of this job fire at the next look, as if they had been declared an interval ago."""
    for schedule in declared():
        if schedule.job.name == job:
            await redis().hset(STATE, schedule.name, dumps({"since": await server_time() - longest_gap(schedule)}))
