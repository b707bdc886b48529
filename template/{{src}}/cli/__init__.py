"""The command line: start the parts of the service, submit and follow jobs, operate it.

Everything is asked of the `Engine`, so the commands are the same on every stack. Imports stay inside the commands:
neither `--help` nor a worker's probe may wait until the job stack has loaded.
Exit codes: 0 fine, 1 the thing failed or is unhealthy, 2 bad usage or input, 3 the broker does not answer.
"""

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from io import TextIOWrapper
from pathlib import Path
from traceback import extract_tb
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from ..contract import (
    BrokerUnavailable,
    ContractError,
    IdempotencyConflict,
    InvalidPayload,
    JobDeclarationError,
    NotADeadLetter,
    UnknownJob,
    UnknownQueue,
    UnknownSchedule,
)
from . import jobs, operations

app = typer.Typer(
    help="Background jobs: run the service, submit and follow jobs, operate it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich for --help would take longer than all the rest
)


@app.command()
def dev() -> None:
    """Start everything, on embedded defaults."""
    from ..dev.runner import dev

    raise typer.Exit(dev())


@app.command()
def demo() -> None:
    """Run one example of each pattern and tell what happened."""
    from ..dev.demo import demo

    raise typer.Exit(demo())


# Without an origin it is a folder with an old __pycache__, left behind when an update took the API away.
if (found := find_spec("..api", __package__)) and found.origin:

    @app.command()
    def api(
        host: Annotated[str | None, typer.Option(help="API_HOST unless given.")] = None,
        port: Annotated[int | None, typer.Option(help="API_PORT unless given.", min=0, max=65535)] = None,
    ) -> None:
        """Serve the HTTP API."""
        _check()
        import_module("..api", __package__).serve(host, port)


@app.command()
def worker(queue: Annotated[list[str] | None, typer.Option(help="Only this queue; may be repeated.")] = None) -> None:
    """Run jobs; on SIGTERM finish or hand back what runs."""
    _check(beats=True)
    from ..ops.worker import run_worker

    run_worker(queue or None)


@app.command()
def scheduler() -> None:
    """Submit recurring jobs when they are due."""
    _check(beats=True)
    from ..ops.schedules import run_scheduler

    run_scheduler()


if find_spec("..ops.flower", __package__):

    @app.command()
    def flower() -> None:
        """Serve Flower behind a login: what workers did, read only."""
        _check()
        import_module("..ops.flower", __package__).serve()


if (found := find_spec("..admin", __package__)) and found.origin:
    app.add_typer(import_module("..admin.commands", __package__).app, name="admin")

app.add_typer(jobs.app)
app.add_typer(operations.app)


def main() -> None:
    """Run a command; an error that the caller can act on is one line on stderr and an exit code, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # LANG=C cannot show every text
            stream.reconfigure(errors="backslashreplace")
    for argument in sys.argv[1:]:
        if not argument.isascii() and argument != argument.encode("utf-8", "replace").decode():
            print(f"error: {argument!r} is not UTF-8", file=sys.stderr)
            sys.exit(2)
    try:
        app()
    except (ContractError, ValueError) as error:
        explained = _explain(error)
        if explained is None:
            raise
        text, exit_code = explained
        jobs.say(f"error: {text}", error=True)
        sys.exit(exit_code)


def _check(*, beats: bool = False) -> None:
    """Refuse wrong settings at once, before the job stack has loaded; then state that is not for this release.

    `beats`: the process leaves a heartbeat file, which must be possible.
    """
    from ..settings import settings

    settings()
    if beats:
        import_module("..health", __package__).require_run_dir()
    if find_spec("..ops.state", __package__):
        import_module("..ops.state", __package__).check()


def _explain(error: Exception) -> tuple[str, int] | None:
    """What to tell and the exit code; None for a defect."""
    from ..settings import NotConfigured

    match error:
        case BrokerUnavailable():
            return str(error), 3
        case InvalidPayload():
            return "; ".join([str(error), *map(_wrong_field, error.errors)]), 2
        case UnknownJob() | UnknownQueue() | UnknownSchedule() | IdempotencyConflict() | NotADeadLetter():
            return str(error), 2
        case NotConfigured():
            return str(error), 2
        case JobDeclarationError():
            frames = extract_tb(error.__traceback__)
            places = [
                f"jobs/{Path(frame.filename).name}:{frame.lineno}: " for frame in frames if "/jobs/" in frame.filename
            ]
            return "".join(places[-1:]) + str(error), 2
        case ContractError():
            return str(error), 1
        case ValidationError(title="Settings"):
            return "; ".join(
                _wrong_field({**entry, "loc": [str(name).upper() for name in entry["loc"]]}) for entry in error.errors()
            ), 2
    return None


def _wrong_field(error: Mapping[str, Any]) -> str:
    where = ".".join(map(str, error.get("loc", ())))
    what = str(error.get("msg", "")).removeprefix("Value error, ")
    return f"{where}: {what}" if where else what
