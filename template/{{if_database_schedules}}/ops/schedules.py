"""Schedules in a database, where an operator changes them: the scheduler process, and what API and commands ask.

django-celery-beat's own scheduler keeps the last runs in memory and writes them now and then: two of them double every
job, a killed one repeats some, and a job that is gone is sent for ever. Here its tables are read at each look, and a
firing is noted by one conditional update (`admin/rows.py`).
"""

import asyncio
import time

from .. import broker
from ..admin import database, setup
from ..celery import app
from ..contract import InvalidPayload, ScheduleStatus, Submission
from ..runtime.connection import server_time
from ..settings import settings
from .firing import Entry, SharedScheduler, declared, longest_gap, named, told


def run_scheduler() -> None:
    """Fire schedules until SIGTERM; those declared in jobs/ are brought into the database first."""
    broker.require()
    prepare()  # here, since beat hears SIGTERM only when it has its scheduler
    app.start(["beat", f"--loglevel={settings().log_level}", "--pidfile="])


def prepare() -> None:
    """Refuse wrong declarations, and load Django, which would take too much of the time for an answer."""
    declared()
    setup()


class JobScheduler(SharedScheduler):
    """For the setting `beat_scheduler`."""

    synchronised = False

    def setup_schedule(self) -> None:
        prepare()

    def entries(self) -> list[Entry]:
        with database() as rows:
            if not self.synchronised:
                rows.synchronise()
                self.synchronised = True
            return rows.entries()

    def seen(self, entry: Entry, now: float) -> None:
        with database() as rows:
            rows.seen(entry, now)

    def recount(self, entry: Entry, now: float) -> None:
        with database() as rows:
            rows.recount(entry, now)

    def fired(self, entry: Entry, now: float) -> None:
        with database() as rows:
            rows.fired(entry, now)


def statuses() -> list[ScheduleStatus]:
    """Every schedule in the database."""
    with database() as rows:
        return told(rows.entries())


def pause(name: str) -> None:
    """Let it fire no more until `resume`; raises UnknownSchedule."""
    with database() as rows:
        named(name, rows.entries())
        rows.pause(name)


def resume(name: str) -> None:
    """Let it fire again at its next time; raises UnknownSchedule."""
    with database() as rows:
        if named(name, rows.entries()).paused:
            rows.resume(name)


def fire(name: str) -> Submission:
    """Run its job now, beside its times; raises UnknownSchedule, or InvalidPayload if it cannot."""
    with database() as rows:
        entry, obstacle = named(name, rows.entries()), rows.obstacle(name)
    if obstacle:
        raise InvalidPayload(f"schedule {name} cannot run: {obstacle}")
    return entry.submit(f"{time.time():.3f} by hand")


async def make_due(job: str) -> None:
    """Let the schedules of this job fire at once, as if they had been declared long ago."""
    await asyncio.to_thread(_make_due, job)  # Django refuses to block an event loop


def _make_due(job: str) -> None:
    with database() as rows:
        for entry in rows.entries():
            if entry.schedule.job.name == job:
                rows.count_from(entry.schedule.name, server_time() - longest_gap(entry.schedule))
