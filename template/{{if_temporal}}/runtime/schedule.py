"""When a job runs by itself: Temporal's own schedules, declared in code.

A schedule that the server keeps fires whichever processes live; one that never fires is refused when it is declared.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from temporalio.client import ScheduleOverlapPolicy

from ..contract import JobDeclarationError
from .job import Job

FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))  # minute, hour, day of month, month, day of week
LONGEST = {1: 31, 2: 29, 3: 31, 4: 30, 5: 31, 6: 30, 7: 31, 8: 31, 9: 30, 10: 31, 11: 30, 12: 31}  # days of a month


@dataclass(frozen=True)
class Cron:
    """Times in UTC, as in a crontab: `minute hour day-of-month month day-of-week`; numbers, `*`, lists, ranges, steps.

    Raises JobDeclarationError for one that is malformed or never fires.
    """

    text: str

    def __post_init__(self) -> None:
        parts = self.text.lower().split()
        if len(parts) != len(FIELDS):
            raise JobDeclarationError(f'Cron("{self.text}") has {len(parts)} fields, not minute hour day month weekday')
        numbers = [self._numbers(part, *bounds) for part, bounds in zip(parts, FIELDS, strict=True)]
        if min(numbers[2]) > max(LONGEST[month] for month in numbers[3]):
            raise JobDeclarationError(f'Cron("{self.text}") never fires: those months have no such day')

    def _numbers(self, part: str, low: int, high: int) -> set[int]:
        found: set[int] = set()
        for piece in part.split(","):
            span, _, step = piece.partition("/")
            first, _, last = span.partition("-")
            try:
                start = low if first == "*" else int(first)
                end = high if first == "*" or (step and not last) else int(last or first)
                numbers = range(start, end + 1, int(step or 1))
            except ValueError:
                numbers = range(0)
            if not numbers or numbers[0] < low or numbers[-1] > high:
                raise JobDeclarationError(f'Cron("{self.text}") never fires: {piece!r} is not within {low} to {high}')
            found |= set(numbers)
        return found


@dataclass(frozen=True)
class Schedule:
    """Run `job` at each time of `when`: a `Cron` (UTC) or a timedelta; `overlap` says what happens if one still runs:
    by default the next is skipped.
    """

    name: str
    job: Job[Any, Any]
    when: Cron | timedelta
    payload: dict[str, Any] = field(default_factory=dict)
    overlap: ScheduleOverlapPolicy = ScheduleOverlapPolicy.SKIP

    def __post_init__(self) -> None:
        second = timedelta(seconds=1)
        if isinstance(self.when, timedelta) and (self.when < second or self.when % second):
            raise JobDeclarationError(f"schedule {self.name}: {self.when} is not in whole seconds")

    @property
    def times(self) -> str:
        """In words."""
        return f"every {self.when}" if isinstance(self.when, timedelta) else self.when.text
