"""Schedules as rows of django-celery-beat's `PeriodicTask`, each with a `Memory` of our own beside it.

What jobs/ declares is brought in field by field, and only where the row still has what was declared before: a release
must not undo what an operator changed. A row whose job is gone is disabled and keeps its place, with the reason: it is
overdue until a person mends or pauses it.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from django.db.models import F
from django.db.transaction import atomic
from django_celery_beat.models import PeriodicTask
from pydantic_core import to_jsonable_python

from ..celery import app
from ..contract import ContractError
from ..documents import jsonable
from ..ops.firing import Entry, declared
from ..runtime.connection import redis, server_time
from ..runtime.job import Schedule
from ..runtime.routing import known_queue
from ..runtime.task import JobTask
from . import times
from .models import Memory, Row

log = structlog.get_logger(__name__)
UNREADABLE = timedelta(days=1)  # stands in for times that cannot be read


def synchronise() -> None:
    """Bring in what jobs/ declares, and disable what cannot fire; one scheduler after the other."""
    wanted = {schedule.name: _declaration(schedule) for schedule in declared()}
    with redis().lock("schedules:synchronising", timeout=60), atomic():  # seconds
        rows: dict[str, Row] = {row.name: row for row in PeriodicTask.objects.select_for_update()}
        for name, values in wanted.items():
            _bring_in(rows.get(name) or PeriodicTask(name=name), values)
        for name in rows.keys() - wanted.keys():
            _let_go(rows[name])
        for row in _rows():
            _judge(row)


def _bring_in(row: Row, values: dict[str, Any]) -> None:
    now, before = (_values(row), _memory(row).declared) if row.pk else ({}, {})
    if before is not None:  # else an operator was first with this name
        unchanged = {field: value for field, value in values.items() if now.get(field) == before.get(field)}
        if any(now.get(field) != value for field, value in unchanged.items()):
            _set(row, **unchanged)
            log.info("schedule brought in from jobs/", schedule=row.name)
    Memory.objects.update_or_create(schedule=row, defaults={"declared": values})


def _let_go(row: Row) -> None:
    """jobs/ declares it no more: what an operator has changed is theirs from now on, the rest goes."""
    if is_declared(row) and _values(row) == _memory(row).declared:
        row.delete()
        log.info("schedule deleted, since jobs/ has it no more", schedule=row.name)
    else:
        Memory.objects.filter(schedule=row).update(declared=None)


def _judge(row: Row) -> None:
    """Disable what cannot fire; what was disabled for that and can again goes on."""
    problem, before = _problem(row), _memory(row).problem
    if problem and (row.enabled or before):
        log.error("schedule cannot fire", schedule=row.name, problem=problem)
        _change(row.name, enabled=False)
        since = _memory(row).since or datetime.now(UTC)
        Memory.objects.update_or_create(schedule=row, defaults={"problem": problem, "since": since})
    elif before and not problem:
        resume(row.name)


def _declaration(schedule: Schedule) -> dict[str, Any]:
    payload = to_jsonable_python(schedule.payload or {})
    return {"job": schedule.job.name, "when": times.written(schedule.when), "payload": payload}


def _values(row: Row) -> dict[str, Any]:
    return {"job": row.task, "when": times.of(row), "payload": payload(row)}


def _set(row: Row, **values: Any) -> None:
    row.task = values.get("job", row.task)
    if "when" in values:
        times.put(values["when"], row)
    if "payload" in values:
        row.kwargs = json.dumps(values["payload"])
    last_run_at = row.last_run_at  # which django-celery-beat forgets of one that is disabled
    row.save()
    _change(row.name, last_run_at=last_run_at)


def _problem(row: Row) -> str:
    task = app.tasks.get(row.task)
    if not isinstance(task, JobTask):
        return f"there is no job {row.task!r}: choose another, or delete the schedule"
    if strange := times.foreign(row):
        return f"{strange}: schedules here know only a crontab in UTC or an interval; save it once on the admin page"
    try:
        times.read(times.of(row))
        known_queue(row.queue or "default")
        jsonable(task.bind_arguments((), payload(row)))
    except (ContractError, TypeError, ValueError) as error:
        return str(error)
    return ""


def entries() -> list[Entry]:
    """All schedules by name."""
    keys = {schedule.name: schedule for schedule in declared()}
    return [_entry(row, keys.get(row.name)) for row in _rows()]


def _entry(row: Row, declaration: Schedule | None) -> Entry:
    memory, task = _memory(row), app.tasks.get(row.task)
    problem = _problem(row) or memory.problem if row.enabled or memory.problem else ""
    if not isinstance(task, JobTask):
        task = JobTask()  # never sent
        task.name = row.task
    try:
        when = times.read(times.of(row))
    except ValueError:
        when = UNREADABLE
    key = declaration.key if declaration and declaration.job.name == row.task else None
    moments = [moment.timestamp() for moment in (row.last_run_at, memory.since) if moment]
    return Entry(
        Schedule(row.name, task, when, payload(row), key),
        since=max(moments, default=None),
        last_run_at=row.last_run_at and row.last_run_at.timestamp(),
        runs=row.total_run_count,
        paused=not row.enabled and not problem,
        queue=row.queue,
        problem=problem,
    )


def problem(row: Row) -> str:
    """Why it cannot fire; empty also while a person has paused it."""
    return _entry(row, None).problem


def obstacle(name: str) -> str:
    """Why it could not fire, also of one that a person has paused."""
    return _problem(_rows().get(name=name))


def payload(row: Row) -> Any:
    """The arguments by name; None if the row holds no JSON."""
    try:
        return json.loads(row.kwargs or "{}")
    except ValueError:
        return None


def is_declared(row: Row) -> bool:
    """Whether jobs/ had it when a scheduler started last."""
    return _memory(row).declared is not None


def seen(entry: Entry, now: float) -> None:
    """Its next time counts from now, unless another scheduler has seen it before."""
    row = PeriodicTask.objects.get(name=entry.schedule.name)
    Memory.objects.get_or_create(schedule=row)
    Memory.objects.filter(schedule=row, since=None).update(since=datetime.fromtimestamp(now, UTC))


def recount(entry: Entry, now: float) -> None:
    """Its next time counts from now, although it was seen or has fired later than that."""
    _change(entry.schedule.name, last_run_at=entry.last_run_at and datetime.fromtimestamp(now, UTC))
    count_from(entry.schedule.name, now)


def fired(entry: Entry, now: float) -> None:
    """One more run; of schedulers that fired it together, one is counted."""
    before = entry.last_run_at and datetime.fromtimestamp(entry.last_run_at, UTC)
    rows = PeriodicTask.objects.filter(name=entry.schedule.name, last_run_at=before)
    rows.update(last_run_at=datetime.fromtimestamp(now, UTC), total_run_count=F("total_run_count") + 1)


def pause(name: str) -> None:
    """Let it fire no more; a problem that it has raises no alarm any more."""
    _change(name, enabled=False)
    Memory.objects.filter(schedule__name=name).update(problem="")


def resume(name: str) -> None:
    """Let it fire again, at its next time; one that no scheduler has seen yet waits for that."""
    _change(name, enabled=True)
    Memory.objects.filter(schedule__name=name).update(problem="")
    if _entry(_rows().get(name=name), None).since:
        count_from(name, server_time())


def count_from(name: str, moment: float) -> None:
    """Its next time is the first after this one and after its last run."""
    row = PeriodicTask.objects.get(name=name)
    Memory.objects.update_or_create(schedule=row, defaults={"since": datetime.fromtimestamp(moment, UTC)})


def _change(name: str, **values: Any) -> None:
    PeriodicTask.objects.filter(name=name).update(**values)


def _rows() -> Row:
    return PeriodicTask.objects.select_related("crontab", "interval", "memory").order_by("name")


def _memory(row: Row) -> Row:
    return getattr(row, "memory", None) or Memory(schedule=row)
