"""Operate the service: queues, schedules, dead letters, health and doctor."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated

import typer

from ..contract import BrokerUnavailable, ContractError, DeadLetter
from ..engine import Engine, promptly
from .jobs import JobId, Json, load_engine, say

app = typer.Typer()
dead_letters = typer.Typer(help="Jobs that a person must look at.", no_args_is_help=True)
app.add_typer(dead_letters, name="dead-letters")
schedules = typer.Typer()
app.add_typer(schedules, name="schedules")
queues = typer.Typer()
app.add_typer(queues, name="queues")

OnlyJob = Annotated[str | None, typer.Option(help="Only of this job.")]
OnlyQueue = Annotated[str | None, typer.Option(help="Only of this queue.")]
OnlyReason = Annotated[str | None, typer.Option(help="Only with this reason.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", show_default=False)]
Everything = Annotated[bool, typer.Option("--all", help="All, or all that the other options select.")]
ScheduleName = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]
NO_LIMIT = 1_000_000


@queues.callback(invoke_without_command=True)
def list_queues(context: typer.Context, as_json: Json = False) -> None:
    """Show the backlog of each queue."""
    from .display import show_all

    if context.invoked_subcommand is None:
        fields = (
            "name",
            "depth",
            "waiting",
            "delayed",
            "in_flight",
            "oldest_age",
            "workers",
            "dead_letters",
            "problem",
        )
        show_all(asyncio.run(promptly(load_engine().queues())), fields, as_json=as_json)


if find_spec("..ops.repair", __package__):

    @queues.command()
    def repair(
        queue: Annotated[str | None, typer.Argument(metavar="[QUEUE]", show_default=False)] = None,
        cancel: Annotated[bool, typer.Option("--cancel", help="Cancel them instead, and free their keys.")] = False,
    ) -> None:
        """Send the jobs again whose messages the broker has lost, of one queue or of all."""
        load_engine()
        for name, count in import_module("..ops.repair", __package__).repair(queue, cancel=cancel).items():
            print(f"{name}: {count} jobs {'cancelled' if cancel else 'sent again'}")


@schedules.callback(invoke_without_command=True)
def list_schedules(context: typer.Context, as_json: Json = False) -> None:
    """Show the recurring jobs; pause, resume or run one."""
    from .display import show_all

    if context.invoked_subcommand is None:
        fields = ("name", "job", "when", "queue", "last_run_at", "next_run_at", "runs", "silent", "paused", "problem")
        show_all(asyncio.run(promptly(load_engine().schedules())), fields, as_json=as_json)


@schedules.command()
def pause(name: ScheduleName) -> None:
    """Let it fire no more, whatever is restarted, until it is resumed."""
    asyncio.run(promptly(load_engine().pause(name)))
    print(f"{name} is paused")


@schedules.command()
def resume(name: ScheduleName) -> None:
    """Let it fire again at its next time; what it missed is not made up for."""
    asyncio.run(promptly(load_engine().resume(name)))
    print(f"{name} fires again")


@schedules.command()
def run(name: ScheduleName, as_json: Json = False) -> None:
    """Run its job now, beside its times; prints the job's id."""
    from .display import print_json

    submission = asyncio.run(promptly(load_engine().fire(name)))
    print_json(submission) if as_json else say(submission.id)


@dead_letters.command("list")
def list_dead_letters(
    job: OnlyJob = None,
    queue: OnlyQueue = None,
    reason: OnlyReason = None,
    limit: Annotated[int, typer.Option(help="At most this many.", min=1)] = 100,
    as_json: Json = False,
) -> None:
    """Show them, newest first."""
    from .display import show_all

    found = asyncio.run(promptly(load_engine().dead_letters(job=job, queue=queue, reason=reason, limit=limit)))
    show_all(found, ("id", "job", "queue", "reason", "attempts", "failed_at", "replayed_as", "error"), as_json=as_json)


@dead_letters.command("show")
def show_dead_letter(job_id: JobId, as_json: Json = False) -> None:
    """Show one whole, with payload and traceback."""
    from .display import show

    show(asyncio.run(promptly(load_engine().dead_letter(job_id))), as_json=as_json)


@dead_letters.command()
def replay(
    ids: Ids = None,
    everything: Everything = False,
    job: OnlyJob = None,
    queue: OnlyQueue = None,
    reason: OnlyReason = None,
    as_json: Json = False,
) -> None:
    """Run them again as new jobs; replaying twice runs once. --all leaves out what was replayed before."""
    from .display import print_json

    async def replay_one(engine: Engine, job_id: str) -> None:
        submission = await promptly(engine.replay(job_id))
        if as_json:
            print_json({"dead_letter": job_id, **submission.model_dump()}, indent=None)
        else:
            say(f"{job_id} replayed as {submission.id}{'' if submission.created else ' before'}")

    _check_selection(ids, everything, job, queue, reason)
    asyncio.run(_for_each(replay_one, ids, job, queue, reason, fits=lambda it: it.replayable and not it.replayed_as))


@dead_letters.command()
def discard(
    ids: Ids = None,
    everything: Everything = False,
    job: OnlyJob = None,
    queue: OnlyQueue = None,
    reason: OnlyReason = None,
) -> None:
    """Forget them and free their idempotency keys."""

    async def discard_one(engine: Engine, job_id: str) -> None:
        await promptly(engine.discard(job_id))
        say(f"{job_id} discarded")

    _check_selection(ids, everything, job, queue, reason)
    asyncio.run(_for_each(discard_one, ids, job, queue, reason))


@app.command()
def health(
    worker: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only that worker's sign of life; asks nothing of the broker.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say whether jobs flow, or whether one worker lives."""
    if worker:
        from ..health import worker_alive

        alive = worker_alive(worker)
        print(
            json.dumps({"worker": worker, "alive": alive})
            if as_json
            else f"{worker} {'is alive' if alive else 'gives no sign of life'}"
        )
        raise typer.Exit(0 if alive else 1)

    from .display import print_json, show_all

    report = asyncio.run(promptly(load_engine().health()))
    if as_json:
        print_json(report)
    else:
        show_all(report.workers, ("name", "queues", "concurrency", "running", "seen_at"), as_json=False)
        say("\n".join(report.reasons) or "Jobs flow.")
    if not report.ok:
        raise typer.Exit(1 if report.broker else 3)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Find mistakes in configuration and code."""
    from ..ops.leftovers import leftovers
    from .display import show_all

    try:
        from ..ops.doctor import diagnose

        findings = diagnose()
    except (ImportError, SyntaxError):  # a module that an update left in conflict, or that is missing
        findings = list(leftovers())
        if not findings:
            raise
    if findings or as_json:
        show_all(findings, ("where", "problem", "mend"), as_json=as_json)
    else:
        print("Nothing to mend.")
    if findings:
        raise typer.Exit(1)


def _check_selection(ids: list[str] | None, everything: bool, *filters: str | None) -> None:
    if bool(ids) == everything or (ids and any(filters)):
        raise typer.BadParameter("give either ids or --all; --job, --queue and --reason narrow --all")


async def _for_each(
    act: Callable[[Engine, str], Awaitable[None]],
    ids: list[str] | None,
    job: str | None,
    queue: str | None,
    reason: str | None,
    fits: Callable[[DeadLetter], bool] = lambda _: True,
) -> None:
    """Act on these dead letters, or on all that fit; one that fails does not stop the others. Raises the last error."""
    engine = load_engine()
    if not ids:
        found = await engine.dead_letters(job=job, queue=queue, reason=reason, limit=NO_LIMIT)
        ids = [letter.id for letter in found if fits(letter)]
    errors: list[ContractError] = []
    for job_id in ids:
        try:
            await act(engine, job_id)
        except BrokerUnavailable:
            raise
        except ContractError as error:
            errors.append(error)
    for error in errors[:-1]:
        say(f"error: {error}", error=True)
    if errors:
        raise errors[-1]
