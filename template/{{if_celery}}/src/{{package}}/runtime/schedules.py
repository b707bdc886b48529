"""Recurring jobs, declared in jobs/schedules.py: when, what, and whether it still happens."""

import json
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from importlib import import_module
from typing import Any

from celery.schedules import BaseSchedule, crontab, maybe_schedule

from ..contract import ScheduleStatus
from .connection import redis
from .task import JobTask

STATE = "schedules"  # hash: name → {"last_run_at", "runs"}
GRACE = 60.0  # seconds a firing may be late before the schedule counts as silent


@dataclass(frozen=True, slots=True)
class Schedule:
    """Run `job` at each time of `when`: a `celery.schedules.crontab` (UTC) or a timedelta.

    With `key`, the job is submitted only if none with this key is alive: for jobs that go on by themselves (polling).
    """

    name: str
    job: JobTask[Any, Any]
    when: crontab | timedelta
    payload: dict[str, Any] | None = None
    key: str | None = None

    @property
    def times(self) -> BaseSchedule:
        return maybe_schedule(self.when)

    def due_after(self, moment: float) -> float:
        """The first firing after this time."""
        then = datetime.fromtimestamp(moment, timezone.utc)
        start, delta, _ = self.times.remaining_delta(then) if isinstance(self.when, crontab) else (then, self.when, None)
        return (start + delta).timestamp()

    def longest_gap(self) -> float:
        """Seconds between firings, the longest of the next dozen (a crontab may skip weekends)."""
        moments = [time.time()]
        for _ in range(12):
            moments.append(self.due_after(moments[-1]))
        return max(later - earlier for earlier, later in zip(moments[1:-1], moments[2:], strict=True))


def declared() -> list[Schedule]:
    """What jobs/schedules.py lists; raises ValueError if a name stands twice."""
    schedules: list[Schedule] = import_module("...jobs.schedules", __name__).SCHEDULES
    names = [schedule.name for schedule in schedules]
    if len(names) != len(set(names)):
        raise ValueError(f"jobs/schedules.py: each name may stand once, found {sorted(names)}")
    return schedules


def state() -> dict[str, dict[str, Any]]:
    """When each schedule last fired, and how often."""
    return {name: json.loads(text) for name, text in redis().hgetall(STATE).items()}


def statuses() -> list[ScheduleStatus]:
    """Every schedule with its last and next firing; `silent` if that is overdue."""
    stored, now, found = state(), time.time(), []
    for schedule in declared():
        seen = stored.get(schedule.name, {})
        last = seen.get("last_run_at") or seen.get("since")
        due = schedule.due_after(last or now)
        found.append(
            ScheduleStatus(
                name=schedule.name,
                job=schedule.job.name,
                when=str(schedule.times).strip("<>"),
                queue=schedule.job.job_queue or "",
                last_run_at=seen.get("last_run_at"),
                next_run_at=due,
                runs=seen.get("runs", 0),
                silent=last is not None and now > due + GRACE,
            )
        )
    return found
