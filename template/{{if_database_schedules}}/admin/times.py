"""The times of a schedule in words, as the admin page shows and takes them: `0 6 * * *` or `every 30 seconds`.

What Celery cannot read, or what never comes, is refused here, not found out by a scheduler.
"""

import re
from collections.abc import Iterable
from datetime import timedelta

from celery.schedules import ParseException, crontab
from django_celery_beat.models import CrontabSchedule, IntervalSchedule

from .models import Row

YEAR = timedelta(days=366)
FIELDS = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
FOREIGN = {
    "solar": None,
    "clocked": None,
    "one_off": False,
    "start_time": None,
    "expires": None,
    "expire_seconds": None,
    "priority": None,
    "exchange": None,
    "routing_key": None,
    "args": "[]",
    "headers": "{}",
}
"""What other programs write into the table and no scheduler of this service reads, with the values that say nothing."""
UNITS = {"days": 86_400_000_000, "hours": 3_600_000_000, "minutes": 60_000_000, "seconds": 1_000_000, "microseconds": 1}


def read(text: str) -> crontab | timedelta:
    """Raises ValueError that shows a right one."""
    if match := re.fullmatch(r"every (\d{1,9}) (day|hour|minute|second|microsecond)s?", text.strip()):
        every = timedelta(microseconds=int(match[1]) * UNITS[f"{match[2]}s"])
        if not timedelta(0) < every <= YEAR:
            raise ValueError(f"{text!r} is no time, or more than a year: write for example every 30 seconds")
        return every
    fields = text.split()
    if len(fields) != 5:
        raise ValueError(
            f"{text!r} is neither a crontab (minute, hour, day of month, month, day of week), for example 0 6 * * mon, "
            "nor an interval, for example every 30 seconds"
        )
    try:
        return crontab(**dict(zip(FIELDS, fields, strict=True)))
    except (ParseException, ValueError, ZeroDivisionError) as error:
        why = str(error).rstrip(".")
        raise ValueError(f"{text!r} is no crontab: {why}; write for example 0 6 * * mon, or */5 * * * *") from None


def written(when: crontab | timedelta) -> str:
    """The text of which `read` makes the same."""
    if isinstance(when, crontab):
        return " ".join(_field(getattr(when, f"_orig_{name}")) for name in FIELDS)
    microseconds = when // timedelta(microseconds=1)
    unit = next(unit for unit, size in UNITS.items() if microseconds % size == 0)
    return f"every {microseconds // UNITS[unit]} {unit}"


def _field(value: str | int | Iterable[int]) -> str:
    return str(value) if isinstance(value, str | int) else ",".join(map(str, sorted(value)))


def of(row: Row) -> str:
    """As the row has them; empty if it has another kind of time."""
    if row.crontab:
        return " ".join(getattr(row.crontab, name) for name in FIELDS)
    return f"every {row.interval.every} {row.interval.period}" if row.interval else ""


def foreign(row: Row) -> str:
    """What the row asks for that would be ignored; empty if nothing."""
    found = [
        f"{field} {value}" for field, nothing in FOREIGN.items() if (value := getattr(row, field)) not in (nothing, "")
    ]
    if row.crontab and str(row.crontab.timezone) != "UTC":
        found.append(f"timezone {row.crontab.timezone}")
    return ", ".join(found)


def put(text: str, row: Row) -> None:
    """Let the row have these times and no others; raises ValueError as `read` does."""
    when = read(text)
    row.crontab = row.interval = None
    for field, nothing in FOREIGN.items():
        setattr(row, field, nothing)
    if isinstance(when, crontab):
        fields = dict(zip(FIELDS, text.split(), strict=True))
        row.crontab, _ = CrontabSchedule._default_manager.get_or_create(**fields, timezone="UTC")
    else:
        _, every, period = written(when).split()
        row.interval, _ = IntervalSchedule._default_manager.get_or_create(every=int(every), period=period)
