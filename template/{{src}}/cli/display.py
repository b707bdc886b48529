"""How answers look: tables and a progress bar for people at a terminal, JSON for machines."""

import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from pydantic import BaseModel
from pydantic_core import to_json
from rich import box
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table
from rich.text import Text

from ..contract import JobStatus, Progress
from ..logs import visible

PIPED_WIDTH = 1000
"""Columns when nobody's terminal sets a limit: an id that is cut or wrapped cannot be copied or searched for."""
NOTHING = "–"


def print_json(value: object, *, indent: int | None = 2) -> None:
    """Print a model or a list of them, in UTF-8 as JSON is; `indent=None` prints one line."""
    sys.stdout.flush()
    sys.stdout.buffer.write(to_json(value, indent=indent) + b"\n")
    sys.stdout.buffer.flush()


def show(model: BaseModel, *, as_json: bool) -> None:
    """Print one model: as JSON, or the fields that are set, one a line."""
    if as_json:
        return print_json(model)
    names = [name for name in type(model).model_fields if _cell(model, name) != NOTHING]
    return _print_table(("field", "value"), [(name.replace("_", " "), _cell(model, name)) for name in names])


def show_all(models: Sequence[object], fields: Sequence[str], *, as_json: bool) -> None:
    """Print models: as JSON, or as a table of these fields."""
    if as_json:
        return print_json(models)
    headings = [field.removesuffix("_at").replace("_", " ") for field in fields]
    return _print_table(headings, [[_cell(model, field) for field in fields] for model in models])


def describe(status: JobStatus) -> str:
    """One line: what the job is doing and how far it is."""
    progress = status.progress
    counted = "" if progress.done is None else f"{progress.done}/{'?' if progress.total is None else progress.total}"
    attempt = f"attempt {status.attempts}" if status.attempts > 1 else ""
    stalled = "stalled" if status.stalled else ""
    parts = (status.state, stalled, attempt, progress.stage, counted, " ".join(progress.message.split()))
    return visible(" ".join(part for part in parts if part))


@contextmanager
def live_status() -> Generator[Callable[[JobStatus], None]]:
    """Show a job that is being followed on stderr: a progress bar on a terminal, a line for each change elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda status: print(visible(status.id), describe(status), file=sys.stderr, flush=True)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with ProgressBar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda status: bar.update(
            task, description=describe(status), completed=status.progress.done or 0, total=status.progress.total
        )


def _print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(*headings, box=box.SIMPLE)
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))  # Text: square brackets in an error are no markup
    console = Console()
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    console.print(table)


def _cell(model: object, field: str) -> str:
    value = getattr(model, field)
    if value is None or value is False or value in ("", [], Progress()):
        return NOTHING
    if field.endswith("_at"):
        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%SZ}"
    if isinstance(value, float):
        return f"{value:.1f}"
    return value if isinstance(value, str) else to_json(value, exclude_none=True).decode()
