"""The scheduler process: Celery beat with its memory in Redis, so that two fire once and a new one misses nothing.

Beat keeps the last run in a local file: a second beat doubles every job, a new container forgets. Here each firing is
submitted under a key made of the schedule's name and due time, which every scheduler reads from Redis: whoever comes
second gets the first one's job. `statuses` tells when firings stop: the dead man's switch.
"""

import json
import time
from itertools import pairwise
from threading import Thread
from typing import Any

import structlog
from celery.beat import Scheduler

from .. import broker, health
from ..celery import app
from ..contract import IdempotencyConflict, JobDeclarationError, ScheduleStatus, UnknownSchedule
from ..queues import DEFAULT_QUEUE
from ..runtime import routing
from ..runtime.connection import UNAVAILABLE, redis
from ..runtime.job import Schedule
from ..runtime.results import large_results
from ..settings import settings

log = structlog.get_logger(__name__)
STATE = "schedules"  # hash: name → {"last_run_at", "runs"}
PAUSES = "schedules:pauses"  # hash: name → "paused", or when it was resumed
PAUSED = "paused"
SWEEP = 3600.0  # seconds between removals of expired large results
LOOK_EVERY = 1.0  # seconds at most between two looks
GRACE = 60.0  # seconds a firing may be late before the schedule counts as silent


def run_scheduler() -> None:
    """Fire schedules until SIGTERM."""
    broker.require()
    app.start(["beat", f"--loglevel={settings().log_level}", "--pidfile="])


class RedisScheduler(Scheduler):
    """For the setting `beat_scheduler`."""

    swept_at = 0.0

    def setup_schedule(self) -> None:
        self.declared = declared()

    def tick(self, *_: Any, **__: Any) -> float:
        """Fire what is due; answers the seconds until the next look."""
        health.beat("scheduler")
        try:
            stored, pauses = _noted()
            waits = [
                self._look(schedule, stored.get(schedule.name, {}), pauses.get(schedule.name, "0"))
                for schedule in self.declared
            ]
        except UNAVAILABLE as error:
            log.warning("Redis does not answer, schedules wait", error=str(error))
            return LOOK_EVERY
        if time.time() - self.swept_at > SWEEP:
            self.swept_at = time.time()
            Thread(target=_sweep, daemon=True).start()
        return max(0.0, min([LOOK_EVERY, *waits]))

    def _look(self, schedule: Schedule, seen: dict[str, Any], pause: str) -> float:
        if pause == PAUSED:
            return LOOK_EVERY
        if not seen:
            redis().hsetnx(STATE, schedule.name, json.dumps({"since": time.time()}))
            return 0.0
        due = schedule.due_after(_last(seen, pause))
        if due > time.time():
            return due - time.time()
        try:
            sent, created = schedule.job.send(
                kwargs=schedule.payload,
                idempotency_key=schedule.key or f"{schedule.name}@{due:.3f}",
                restart=schedule.key is not None,
            )
            log.info("schedule fired", schedule=schedule.name, job_id=sent.id, new=created)
        except IdempotencyConflict as conflict:  # a scheduler of another release was first, with another payload
            log.warning("schedule fired before", schedule=schedule.name, because=str(conflict))
        fired = {"last_run_at": time.time(), "runs": seen.get("runs", 0) + 1}
        redis().hset(STATE, schedule.name, json.dumps(fired))
        return 0.0


def _last(seen: dict[str, Any], resumed: str) -> float:
    """From when its next time counts."""
    return max(float(seen.get("last_run_at") or seen["since"]), float(resumed))


def _noted() -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """STATE and PAUSES of one moment."""
    with redis().pipeline() as pipe:
        pipe.hgetall(STATE)
        pipe.hgetall(PAUSES)
        stored, pauses = pipe.execute()
    return {name: json.loads(text) for name, text in stored.items()}, pauses


def _sweep() -> None:
    try:
        removed = large_results().delete_older_than(settings().result_ttl)
    except Exception:  # a store that is away must not stop the schedules; the next sweep comes
        log.exception("expired large results not removed")
    else:
        log.info("expired large results removed", count=removed)


def statuses() -> list[ScheduleStatus]:
    """Every declared schedule; `silent` if its next firing is overdue."""
    stored, pauses = _noted()
    now, found = time.time(), []
    for schedule in declared():
        seen, pause = stored.get(schedule.name, {}), pauses.get(schedule.name, "0")
        paused = pause == PAUSED
        due = schedule.due_after(_last(seen, pause) if seen and not paused else now)
        found.append(
            ScheduleStatus(
                name=schedule.name,
                job=str(schedule.job.name),
                when=schedule.times,
                queue=schedule.job.job_queue or DEFAULT_QUEUE,
                last_run_at=seen.get("last_run_at"),
                next_run_at=None if paused else due,
                runs=seen.get("runs", 0),
                interval=_longest_gap(schedule, now),
                silent=now > due + GRACE,
                paused=paused,
            )
        )
    return found


def _longest_gap(schedule: Schedule, now: float) -> float:
    """Seconds between its firings, the longest of the next dozen (a crontab may skip weekends)."""
    moments = [schedule.due_after(now)]
    for _ in range(12):
        moments.append(schedule.due_after(moments[-1]))
    return max(later - earlier for earlier, later in pairwise(moments))


async def make_due(job: str) -> None:
    """Let the schedules of this job fire at once, as if they had been declared long ago."""
    for schedule in declared():
        if schedule.job.name == job:
            now = time.time()
            redis().hset(STATE, schedule.name, json.dumps({"since": now - _longest_gap(schedule, now)}))


def declared() -> list[Schedule]:
    """The `SCHEDULES` of all modules in jobs/.

    Raises JobDeclarationError if a name stands twice or a payload does not fit.
    """
    schedules: list[Schedule] = routing.declared("SCHEDULES")
    names = [schedule.name for schedule in schedules]
    if len(names) != len(set(names)):
        raise JobDeclarationError(f"SCHEDULES in jobs/: each name may stand once, found {sorted(names)}")
    for schedule in schedules:
        try:
            schedule.job.bind_arguments((), schedule.payload or {})
        except (TypeError, ValueError) as error:
            raise JobDeclarationError(f"schedule {schedule.name}: its payload does not fit: {error}") from error
    return schedules


def pause(name: str) -> None:
    """Let it fire no more until `resume`; raises UnknownSchedule."""
    redis().hset(PAUSES, _known(name), PAUSED)


def resume(name: str) -> None:
    """Let it fire again at its next time; raises UnknownSchedule."""
    if redis().hget(PAUSES, _known(name)) == PAUSED:
        redis().hset(PAUSES, name, str(time.time()))


def _known(name: str) -> str:
    names = [schedule.name for schedule in declared()]
    if name not in names:
        raise UnknownSchedule(f"there is no schedule {name!r}; there are {', '.join(names)}")
    return name
