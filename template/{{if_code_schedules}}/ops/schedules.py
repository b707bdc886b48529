"""Schedules declared in jobs/, remembered in Redis: when each fired last, and which an operator has paused.

A scheduler's memory in a local file is lost with its container, and a second scheduler does not see it.
"""

import json
import time
from typing import Any

from .. import broker
from ..celery import app
from ..contract import ScheduleStatus, Submission
from ..runtime.connection import redis, server_time
from ..runtime.job import Schedule
from ..settings import settings
from .firing import Entry, SharedScheduler, declared, longest_gap, named, told

STATE = "schedules"  # hash: name → {"last_run_at", "runs"}, or {"since"} before the first firing
PAUSES = "schedules:pauses"  # hash: name → "paused", or when it was resumed
PAUSED = "paused"


def run_scheduler() -> None:
    """Fire schedules until SIGTERM."""
    broker.require()
    app.start(["beat", f"--loglevel={settings().log_level}", "--pidfile="])


def prepare() -> None:
    """Refuse wrong declarations before anything is answered."""
    declared()


class JobScheduler(SharedScheduler):
    """For the setting `beat_scheduler`."""

    def setup_schedule(self) -> None:
        prepare()

    def entries(self) -> list[Entry]:
        return _entries()

    def seen(self, entry: Entry, now: float) -> None:
        redis().hsetnx(STATE, entry.schedule.name, json.dumps({"since": now}))

    def recount(self, entry: Entry, now: float) -> None:
        redis().hset(STATE, entry.schedule.name, json.dumps({"since": now, "runs": entry.runs}))
        redis().hdel(PAUSES, entry.schedule.name)

    def fired(self, entry: Entry, now: float) -> None:
        redis().hset(STATE, entry.schedule.name, json.dumps({"last_run_at": now, "runs": entry.runs + 1}))


def _entries() -> list[Entry]:
    with redis().pipeline() as pipe:
        pipe.hgetall(STATE)
        pipe.hgetall(PAUSES)
        stored, pauses = pipe.execute()
    return [
        _entry(schedule, json.loads(stored.get(schedule.name, "{}")), pauses.get(schedule.name, "0"))
        for schedule in declared()
    ]


def _entry(schedule: Schedule, seen: dict[str, Any], pause: str) -> Entry:
    paused, since = pause == PAUSED, seen.get("last_run_at") or seen.get("since")
    if since and not paused:
        since = max(since, float(pause))
    return Entry(schedule, since, seen.get("last_run_at"), seen.get("runs", 0), paused)


def statuses() -> list[ScheduleStatus]:
    """Every declared schedule."""
    return told(_entries())


def pause(name: str) -> None:
    """Let it fire no more until `resume`; raises UnknownSchedule."""
    named(name, _entries())
    redis().hset(PAUSES, name, PAUSED)


def resume(name: str) -> None:
    """Let it fire again at its next time; raises UnknownSchedule."""
    if named(name, _entries()).paused:
        redis().hset(PAUSES, name, str(server_time()))


def fire(name: str) -> Submission:
    """Run its job now, beside its times; raises UnknownSchedule."""
    return named(name, _entries()).submit(f"{time.time():.3f} by hand")


async def make_due(job: str) -> None:
    """Let the schedules of this job fire at once, as if they had been declared long ago."""
    for schedule in declared():
        if schedule.job.name == job:
            redis().hset(STATE, schedule.name, json.dumps({"since": server_time() - longest_gap(schedule)}))
