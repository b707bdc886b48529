"""Recurring jobs, declared as `SCHEDULES` in a module of jobs/: when and what."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from celery.schedules import crontab, schedule

from . import routing
from .connection import redis
from .task import JobTask

STATE = "schedules"  # hash: name → {"last_run_at", "runs"}


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
    def times(self) -> schedule | crontab:
        return schedule(self.when) if isinstance(self.when, timedelta) else self.when

    def due_after(self, moment: float) -> float:
        """The first firing after this time."""
        then = datetime.fromtimestamp(moment, UTC)
        start, delta, _ = (
            (then, self.when, None) if isinstance(self.when, timedelta) else self.when.remaining_delta(then)
        )
        return (start + delta).timestamp()


def declared() -> list[Schedule]:
    """The `SCHEDULES` of all modules in jobs/; raises ValueError if a name stands twice."""
    schedules: list[Schedule] = routing.declared("SCHEDULES")
    names = [schedule.name for schedule in schedules]
    if len(names) != len(set(names)):
        raise ValueError(f"SCHEDULES in jobs/: each name may stand once, found {sorted(names)}")
    return schedules


def state() -> dict[str, dict[str, Any]]:
    """When each schedule last fired, and how often."""
    return {str(name): json.loads(text) for name, text in redis().hgetall(STATE).items()}
