"""Fire what is due, once: Celery beat whose memory is shared, so that two fire once and a new one misses nothing.

Beat keeps the last run in a local file: a second beat doubles every job, a new container forgets. Here each firing is
submitted under a key made of the schedule's name and due time, which every scheduler reads from one place
(`schedules.py` says where): whoever comes second gets the first one's job. `statuses` tells when firings stop: the dead
man's switch.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from threading import Thread
from typing import Any

import structlog
from celery.beat import Scheduler

from .. import health
from ..contract import (
    BrokerUnavailable,
    IdempotencyConflict,
    JobDeclarationError,
    ScheduleStatus,
    Submission,
    UnknownSchedule,
)
from ..documents import jsonable
from ..queues import DEFAULT_QUEUE
from ..runtime import routing
from ..runtime.connection import UNAVAILABLE, server_time
from ..runtime.job import Schedule
from ..runtime.results import large_results
from ..settings import settings

log = structlog.get_logger(__name__)
SWEEP = 3600.0  # seconds between removals of expired large results
LOOK_EVERY = 1.0  # seconds at most between two looks
GRACE = 60.0  # seconds a firing may be late before the schedule counts as silent


@dataclass(frozen=True, slots=True)
class Entry:
    """A schedule and what is remembered of it. Times are seconds since the epoch."""

    schedule: Schedule
    since: float | None
    """From when its next time counts; None before a scheduler has seen it."""
    last_run_at: float | None = None
    runs: int = 0
    paused: bool = False
    queue: str | None = None
    """If not the job's own."""
    problem: str = ""
    """Why it cannot fire, until a person mends it."""

    def due(self, now: float) -> float:
        """When it fires, or should have fired; one with a problem is overdue at once, not when its time has come."""
        if self.problem and self.since:
            return self.since
        return self.schedule.due_after(now if self.since is None else self.since)

    def submit(self, firing: str) -> Submission:
        """Queue its job, once for each firing; with a key of its own only if none is alive."""
        options: dict[str, Any] = {"queue": self.queue} if self.queue else {}
        sent, created = self.schedule.job.send(
            kwargs=self.schedule.payload,
            idempotency_key=self.schedule.key or f"{self.schedule.name}@{firing}",
            restart=self.schedule.key is not None,
            **options,
        )
        return Submission(id=str(sent.id), created=created)


class SharedScheduler(Scheduler):
    """A subclass knows where the memory is: `entries`, and what to note when one was seen or has fired."""

    swept_at = 0.0

    def entries(self) -> list[Entry]:
        raise NotImplementedError

    def seen(self, entry: Entry, now: float) -> None:
        """Its next time counts from now, unless another scheduler has seen it before."""
        raise NotImplementedError

    def recount(self, entry: Entry, now: float) -> None:
        """Its next time counts from now, since what is remembered lies in the future: the clock was set back."""
        raise NotImplementedError

    def fired(self, entry: Entry, now: float) -> None:
        """One more run, now."""
        raise NotImplementedError

    def tick(self, *_: Any, **__: Any) -> float:
        """Fire what is due; answers the seconds until the next look."""
        health.beat("scheduler")
        try:
            now = server_time()
            waits = [self._look(entry, now) for entry in self.entries()]
        except (*UNAVAILABLE, BrokerUnavailable) as error:
            log.warning("no answer, schedules wait", error=str(error))
            return LOOK_EVERY
        if time.time() - self.swept_at > SWEEP:
            self.swept_at = time.time()
            Thread(target=_sweep, daemon=True).start()
        return max(0.0, min([LOOK_EVERY, *waits]))

    def _look(self, entry: Entry, now: float) -> float:
        name = entry.schedule.name
        if entry.paused or entry.problem:
            return LOOK_EVERY
        if entry.since is None:
            self.seen(entry, now)
            return 0.0
        if entry.since > now + GRACE:
            log.warning("the clock was set back: the schedule counts from now", schedule=name)
            self.recount(entry, now)
            return 0.0
        if (due := entry.due(now)) > now:
            return due - now
        try:
            sent = entry.submit(f"{due:.3f}")
            log.info("schedule fired", schedule=name, job_id=sent.id, new=sent.created)
        except IdempotencyConflict as conflict:  # a scheduler of another release was first, with another payload
            log.warning("schedule fired before", schedule=name, because=str(conflict))
        except UNAVAILABLE:
            raise
        except Exception:  # the others go on, and this one is overdue soon
            log.exception("schedule cannot fire", schedule=name)
            return LOOK_EVERY
        self.fired(entry, now)
        return 0.0


def _sweep() -> None:
    try:
        removed = large_results().delete_older_than(settings().result_ttl)
    except Exception:  # a store that is away must not stop the schedules; the next sweep comes
        log.exception("expired large results not removed")
    else:
        log.info("expired large results removed", count=removed)


def told(entries: Iterable[Entry]) -> list[ScheduleStatus]:
    """What the contract says of them; one is `silent` if its next firing is overdue."""
    now, found = server_time(), []
    for entry in entries:
        schedule, due = entry.schedule, entry.due(now)
        found.append(
            ScheduleStatus(
                name=schedule.name,
                job=str(schedule.job.name),
                when=schedule.times,
                queue=entry.queue or schedule.job.job_queue or DEFAULT_QUEUE,
                last_run_at=entry.last_run_at,
                next_run_at=None if entry.paused else due,
                runs=entry.runs,
                interval=longest_gap(schedule),
                silent=not entry.paused and now > due + GRACE,
                paused=entry.paused,
                problem=entry.problem or None,
            )
        )
    return found


def longest_gap(schedule: Schedule) -> float:
    """Seconds between its firings, the longest of the next dozen (a crontab may skip weekends)."""
    moments = [schedule.due_after(time.time())]
    for _ in range(12):
        moments.append(schedule.due_after(moments[-1]))
    return max(later - earlier for earlier, later in pairwise(moments))


def named(name: str, entries: Iterable[Entry]) -> Entry:
    """The one of this name; raises UnknownSchedule."""
    found = {entry.schedule.name: entry for entry in entries}
    if name not in found:
        raise UnknownSchedule(f"there is no schedule {name!r}; there are {', '.join(found)}")
    return found[name]


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
            jsonable(schedule.job.bind_arguments((), schedule.payload or {}))
        except (TypeError, ValueError) as error:
            raise JobDeclarationError(f"schedule {schedule.name}: its payload does not fit: {error}") from error
    return schedules
