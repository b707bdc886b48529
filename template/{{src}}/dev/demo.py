"""`demo`: prove every pattern on this machine in half a minute, with a private broker, gateway and folder."""

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..contract import ContractError, QueueStatus
from ..settings import Settings, settings
from . import EmbeddedUnavailable
from .broker import NAME, broker_command, environment
from .embedded import free_port
from .gateway import Gateway
from .processes import Processes
from .runner import service_commands, start_broker, start_service
from .scenarios import SCENARIOS, NotAsTold, Row, Scenario, Stage

TIMEOUT = 55.0  # seconds for everything
FAILED = "NOT AS TOLD"


def demo() -> int:
    """Play all scenarios and print what happened; returns 0 if all went as told, 1 if not, 2 if it could not start."""
    log: deque[str] = deque(maxlen=60)
    try:
        with tempfile.TemporaryDirectory(prefix="demo-") as folder, Gateway() as gateway:
            return asyncio.run(_demo(Path(folder), gateway, log))
    except EmbeddedUnavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except asyncio.CancelledError:
        print("error: the demo was stopped", file=sys.stderr)
        return 1
    except TimeoutError:
        print(*log, f"error: the demo did not end within {TIMEOUT:g} s; above the last lines of its log", sep="\n")
        return 1


async def _demo(folder: Path, gateway: Gateway, log: deque[str]) -> int:
    began, port = time.monotonic(), free_port()
    command = broker_command(folder / NAME, port)
    os.environ |= {
        **environment(port),
        "PAYMENT_GATEWAY_URL": gateway.url,
        "RESULTS_URL": Settings.model_fields["results_url"].default.replace("var/", f"{folder}/"),
        "SCHEDULES_URL": f"sqlite:///{folder}/schedules.db",  # read where schedules are in a database
        "RUN_DIR": str(folder / "run"),
    }
    settings.cache_clear()
    console = Console(width=None if sys.stdout.isatty() else 180)
    if task := asyncio.current_task():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with asyncio.timeout(TIMEOUT), Processes({}, lambda name, line: log.append(f"{name}: {line}")) as processes:
        with console.status("Starting a private broker, workers and scheduler …"):
            await start_broker(processes, command, port)
            from ..ops.engine import engine  # not before the broker's address is known
            from ..ops.schedules import make_due

            stage = Stage(engine(), gateway)
            await make_due("sync_inventory")  # its interval is longer than the demo
            await start_service(processes, service_commands(None))
            crash = asyncio.create_task(processes.crash())
            ready = asyncio.create_task(_until_jobs_flow(stage))
            await asyncio.wait([ready, crash], return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            print(*log, f"error: {crash.result().epitaph}; above the last lines of the log", sep="\n")
            return 1
        await ready
        with console.status("Playing the scenarios …"):
            played = await _play(stage)
            queues = await _settled(stage)
            health = await stage.engine.health()
        crash.cancel()
    ok = health.ok and all(fine for fine, _ in played) and not any(queue.waiting + queue.in_flight for queue in queues)
    if not ok:
        print(*log, sep="\n")
    _print(console, played, queues)
    print(f"health: {'ok' if health.ok else '; '.join(health.reasons)}; {time.monotonic() - began:.0f} s")
    print("Everything went as told." if ok else "error: not everything went as told; above the tables the log's end")
    return 0 if ok else 1


async def _until_jobs_flow(stage: Stage) -> None:
    while not (await stage.engine.health()).ok:
        await asyncio.sleep(0.1)


async def _play(stage: Stage) -> list[tuple[bool, Row]]:
    """All scenarios at once; whether each went as told."""
    there = {job.name for job in stage.engine.job_types()}
    chosen = [scenario for scenario in SCENARIOS if scenario.needs <= there]
    return await asyncio.gather(*(_play_one(stage, scenario) for scenario in chosen))


async def _play_one(stage: Stage, scenario: Scenario) -> tuple[bool, Row]:
    try:
        async with asyncio.timeout(30):
            return True, await scenario.play(stage)
    except (NotAsTold, ContractError) as error:
        why = str(error)
    except TimeoutError:
        why = "did not end within 30 s"
    return False, Row(scenario.name, "", 0, [], FAILED, why)


async def _settled(stage: Stage) -> list[QueueStatus]:
    """The queues once nothing waits or runs; what is delayed (the next poll) may stay."""
    queues = await stage.engine.queues()
    with suppress(TimeoutError):
        async with asyncio.timeout(5):
            while any(queue.waiting + queue.in_flight for queue in queues):
                await asyncio.sleep(0.1)
                queues = await stage.engine.queues()
    return queues


def _print(console: Console, played: list[tuple[bool, Row]], queues: list[QueueStatus]) -> None:
    table = Table("job", "shown", "attempts", "states and stages seen", "outcome", "why", title="What happened")
    for fine, row in played:
        states = " → ".join(row.states) or "–"
        table.add_row(row.job, row.shown, str(row.attempts), states, row.outcome, row.why, style="" if fine else "red")
    console.print(table)
    table = Table("queue", "waiting", "in flight", "delayed", "workers", "dead letters", title="Queues at the end")
    for queue in queues:
        numbers = (queue.waiting, queue.in_flight, queue.delayed, queue.workers, queue.dead_letters)
        table.add_row(queue.name, *map(str, numbers))
    console.print(table)
