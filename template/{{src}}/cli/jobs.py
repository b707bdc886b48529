"""Submit, follow, collect and cancel jobs. Results go to stdout and everything else to stderr, so that pipes work."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..contract import JobFailed, JobStatus, NotFinished
from ..engine import Engine, follow, promptly

app = typer.Typer()

JobId = Annotated[str, typer.Argument(metavar="ID", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
YEAR = 31_536_000  # seconds; as in runtime/bounds.py, which brings the whole job stack with it


def load_engine() -> Engine:
    """The engine, which brings the whole job stack with it; raises NotConfigured."""
    from ..ops.engine import engine

    return engine()


def say(text: str, *, error: bool = False) -> None:
    """Print a text that others may have written."""
    from ..logs import visible

    print(visible(text), file=sys.stderr if error else sys.stdout)


@app.command()
def run(
    job: Annotated[str, typer.Argument(metavar="JOB", show_default=False)],
    data: Annotated[str, typer.Option(help="The payload: JSON, @FILE, or - for standard input.")] = "{}",
    key: Annotated[str | None, typer.Option(help="Idempotency key.")] = None,
    delay: Annotated[float, typer.Option(help="Seconds until it may start.", min=0, max=YEAR)] = 0,
    queue: Annotated[str | None, typer.Option(help="Instead of the job's own queue.")] = None,
    priority: Annotated[int | None, typer.Option(help="9 is the most urgent.", min=0, max=9)] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to its end and print its result.")] = False,
    timeout: Annotated[float | None, typer.Option(help="With --wait: at most this many seconds.", min=0)] = None,
    as_json: Json = False,
) -> None:
    """Submit a job and print its id; with --wait its result."""
    from .display import print_json

    if timeout is not None and not wait:
        raise typer.BadParameter("needs --wait", param_hint="--timeout")
    payload = _read_payload(data)

    async def submit() -> None:
        engine = load_engine()
        submission = await promptly(engine.submit(job, payload, key=key, delay=delay, queue=queue, priority=priority))
        if not submission.created:
            print("This key was used before: here is its first job.", file=sys.stderr)
        if wait:
            await _wait(engine, submission.id, timeout)
            await _write_result(engine, submission.id)
        elif as_json:
            print_json(submission)
        else:
            say(submission.id)

    asyncio.run(submit())


@app.command()
def status(
    job_id: JobId,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end; exit 1 unless it succeeds.")] = False,
    as_json: Json = False,
) -> None:
    """Show a job; with --watch until it ends."""
    from .display import live_status, print_json, show

    async def look() -> JobStatus:
        engine = load_engine()
        current = await promptly(engine.status(job_id))
        if watch and as_json:
            return await _follow(engine, current, lambda latest: print_json(latest, indent=None))
        if watch:
            with live_status() as show_live:
                current = await _follow(engine, current, show_live)
        show(current, as_json=as_json)
        return current

    current = asyncio.run(look())
    if watch and current.state != "succeeded":
        raise typer.Exit(1)


@app.command()
def result(job_id: JobId) -> None:
    """Write a job's result, a JSON document, to standard output."""
    asyncio.run(_write_result(load_engine(), job_id))


@app.command()
def cancel(job_id: JobId, as_json: Json = False) -> None:
    """Ask a job to stop; one that has ended keeps its state."""
    from .display import show

    show(asyncio.run(promptly(load_engine().cancel(job_id))), as_json=as_json)


def _read_payload(data: str) -> Any:
    from ..documents import decode

    try:
        if data == "-":
            return decode(sys.stdin.buffer.read())
        return decode(Path(data[1:]).read_bytes() if data.startswith("@") else data)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint="--data") from None
    except OSError as error:
        raise typer.BadParameter(f"cannot read {data[1:]}: {error.strerror}", param_hint="--data") from None


async def _follow(engine: Engine, status: JobStatus, report: Callable[[JobStatus], None]) -> JobStatus:
    """Report the status at each change, and return the final one."""
    latest = status
    async for latest in follow(engine, status):
        report(latest)
    return latest


async def _wait(engine: Engine, job_id: str, timeout: float | None) -> None:
    """Return when the job has succeeded. Raises JobFailed, or NotFinished after `timeout` seconds."""
    from .display import live_status

    try:
        with live_status() as show_live:
            async with asyncio.timeout(timeout):
                status = await _follow(engine, await promptly(engine.status(job_id)), show_live)
    except TimeoutError:
        raise NotFinished(f"Job {job_id} goes on, but has not ended within {timeout} s; see its status.") from None
    if status.state != "succeeded":
        reason = f": {status.error}" if status.error else ""
        raise JobFailed(f"Job {job_id} {status.state}{reason}")


async def _write_result(engine: Engine, job_id: str) -> None:
    found = await promptly(engine.result(job_id))
    if found.chunks is None:
        from shutil import copyfileobj
        from urllib.request import urlopen

        with urlopen(str(found.url)) as source:  # a signed URL of the object store, which the engine made
            copyfileobj(source, sys.stdout.buffer)
    else:
        async for chunk in found.chunks:
            sys.stdout.buffer.write(chunk)
    print(flush=True)
