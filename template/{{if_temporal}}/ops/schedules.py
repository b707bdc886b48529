"""Recurring jobs as Temporal's own schedules, kept as the code declares them; the scheduler process only sees to that.

The server fires them, whichever of our processes live, once each, and not while the last one still runs. What code
cannot do is a pause: that is an operator's, and a deployment must not end it.
"""

import asyncio
import hashlib
import math
import signal
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import structlog
from pydantic_core import to_json
from temporalio.client import (
    Client,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleDescription,
    ScheduleHandle,
    ScheduleIntervalSpec,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.client import Schedule as ServerSchedule
from temporalio.service import RPCError, RPCStatusCode

from .. import calls, health, logs
from ..contract import JobDeclarationError, ScheduleStatus, UnknownSchedule
from ..documents import jsonable
from ..payloads import PayloadError, written_with
from ..queues import DEFAULT_QUEUE
from ..runtime import connection, routing
from ..runtime.connection import UNAVAILABLE, client, unavailable
from ..runtime.schedule import Cron, Schedule
from ..runtime.submission import prepare
from .registration import register
from .sweeping import sweep_now_and_then

log = structlog.get_logger(__name__)
OURS = "declared"  # in the memo of a schedule: it comes from jobs/, and goes with it; in its action's: a fingerprint
SYNC = 60.0  # seconds between two looks at what the server has
DAY = 86_400.0
SECOND = timedelta(seconds=1)
GRACE = 60.0  # seconds a firing may be late before the schedule counts as silent
CATCH_UP = timedelta(minutes=10)  # what the server missed while it was away for longer is not made up for
ANSWER_WITHIN = 0.7  # seconds


def run_scheduler() -> None:
    """Keep the server's schedules as declared, until SIGTERM or SIGINT."""
    connection.configuration()
    logs.configure()
    asyncio.run(_until_a_signal(declared()))


async def _until_a_signal(schedules: list[Schedule]) -> None:
    work = asyncio.gather(_keep(schedules), sweep_now_and_then())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, work.cancel)
    with suppress(asyncio.CancelledError):
        await work
    await calls.settled()


async def _keep(schedules: list[Schedule]) -> None:
    due = 0.0
    while True:
        health.beat("scheduler")
        if time.monotonic() >= due:
            try:
                await synchronise(schedules)
                due = time.monotonic() + SYNC
            except UNAVAILABLE as error:
                if not unavailable(error):
                    raise
                log.warning("the server does not answer", error=str(error))
        await asyncio.sleep(1)


async def synchronise(schedules: list[Schedule]) -> None:
    """Create, change and delete until the server has these; can be repeated, and by several at once."""
    server = await client()
    await register(server)
    for schedule in schedules:
        await _put(server, schedule)
    async for listed in await server.list_schedules():
        fields = listed.raw_entry.memo.fields  # by their names, which no lost key hides
        if listed.id not in {schedule.name for schedule in schedules} and OURS in fields:
            with suppress(RPCError):  # another scheduler was faster
                await server.get_schedule_handle(listed.id).delete()
                log.info("schedule deleted, since jobs/ has it no more", schedule=listed.id)


async def _put(server: Client, schedule: Schedule) -> None:
    """Let the server have it as it is declared."""
    handle, (wanted, mark) = server.get_schedule_handle(schedule.name), _on_server(schedule)

    async def change(now: ScheduleUpdateInput) -> ScheduleUpdate:
        return ScheduleUpdate(replace(wanted, state=now.description.schedule.state))

    try:
        if await _mark(await _described(schedule.name)) == mark:
            return  # also what `resume` has changed stays
        await handle.update(change)
        log.info("schedule changed", schedule=schedule.name)
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        with suppress(ScheduleAlreadyRunningError):  # another scheduler was faster
            await server.create_schedule(schedule.name, wanted, memo={OURS: True})
            log.info("schedule created", schedule=schedule.name)


async def _mark(found: ScheduleDescription) -> str | None:
    """The fingerprint of the declaration that it was made of; None if nobody has the key to it any more."""
    memo = getattr(found.schedule.action, "memo", None) or {}
    try:
        return next(iter(await (await client()).data_converter.decode([memo[OURS]] if OURS in memo else [])), None)
    except PayloadError:
        return None


def _on_server(schedule: Schedule) -> tuple[ServerSchedule, str]:
    """As the server keeps it, and the fingerprint of that. Each firing is a job as if submitted, but without a key."""
    prepared = prepare(schedule.job, schedule.payload)
    job = {name: value for name, value in prepared.memo.items() if name not in ("key", "fingerprint")}
    job["scheduled"] = True  # it fails instead of parking: a parked one would hold up its schedule
    declared = [schedule.job.name, prepared.queue, prepared.args, job, schedule.times, schedule.overlap, written_with()]
    mark = hashlib.sha256(to_json(declared)).hexdigest()[:32]
    kept = ServerSchedule(
        action=ScheduleActionStartWorkflow(
            schedule.job.name,
            args=prepared.args,
            id=f"{schedule.job.name}:{schedule.name}",  # the server adds the time
            task_queue=prepared.queue,
            memo={"job": job, OURS: mark},
            priority=prepared.urgency,
        ),
        spec=ScheduleSpec(
            intervals=[ScheduleIntervalSpec(schedule.when)] if isinstance(schedule.when, timedelta) else [],
            cron_expressions=[schedule.when.text] if isinstance(schedule.when, Cron) else [],
        ),
        policy=SchedulePolicy(overlap=schedule.overlap, catchup_window=CATCH_UP),
    )
    return kept, mark


async def statuses() -> list[ScheduleStatus]:
    """Every declared schedule; `silent` if its next firing is overdue."""
    return list(await asyncio.gather(*map(_status, declared())))


async def _status(schedule: Schedule) -> ScheduleStatus:
    told = ScheduleStatus(
        name=schedule.name,
        job=schedule.job.name,
        when=schedule.times,
        queue=schedule.job.queue or DEFAULT_QUEUE,
        interval=schedule.when.total_seconds() if isinstance(schedule.when, timedelta) else DAY,
    )
    try:
        found = await _described(schedule.name)
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        told.next_run_at = time.time() + told.interval  # no scheduler has told the server of it yet
        return told
    info, times = found.info, [moment.timestamp() for moment in found.info.next_action_times]
    told.runs, told.paused = info.num_actions, found.schedule.state.paused
    told.last_run_at = info.recent_actions[-1].started_at.timestamp() if info.recent_actions else None
    if isinstance(schedule.when, Cron):
        told.interval = max((after - before for before, after in pairwise(times)), default=DAY)
    if not told.paused and times:
        told.next_run_at, told.silent = times[0], time.time() > times[0] + GRACE
    return told


async def _described(name: str) -> ScheduleDescription:
    """The server asks a workflow of its own, and now and then gets no answer for seconds: ask again."""
    handle, asked = (await client()).get_schedule_handle(name), set[asyncio.Future[ScheduleDescription]]()
    for patience in (ANSWER_WITHIN, ANSWER_WITHIN, None):
        asked.add(call := asyncio.ensure_future(handle.describe()))
        call.add_done_callback(calls.heard)
        done, _ = await asyncio.wait(asked, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if done:
            break
    return done.pop().result()


def declared() -> list[Schedule]:
    """The `SCHEDULES` of all modules in jobs/; raises JobDeclarationError for a name or payload that cannot be."""
    schedules: list[Schedule] = routing.declared("SCHEDULES")
    if len(names := sorted(schedule.name for schedule in schedules)) != len(set(names)):
        raise JobDeclarationError(f"SCHEDULES in jobs/: each name may stand once, found {names}")
    for schedule in schedules:
        try:
            jsonable(schedule.job.validate(schedule.payload))
        except ValueError as error:
            raise JobDeclarationError(f"schedule {schedule.name}: its payload does not fit: {error}") from error
    return schedules


async def pause(name: str) -> None:
    """Let it fire no more until `resume`; raises UnknownSchedule."""
    await (await _handle(name)).pause(note="paused by a person")


async def resume(name: str) -> None:
    """Let it fire again at its next time, an interval from now; raises UnknownSchedule."""
    wanted, every = await _handle(name), known(name).when

    async def change(now: ScheduleUpdateInput) -> ScheduleUpdate | None:
        found = now.description.schedule
        if not found.state.paused:
            return None
        if isinstance(every, timedelta):  # the server counts intervals from 1970, and would fire at once or soon
            first = math.ceil(time.time()) + every // SECOND
            phase = timedelta(seconds=first % (every // SECOND))
            start = datetime.fromtimestamp(first - 0.5, UTC)
            found.spec = ScheduleSpec(intervals=[ScheduleIntervalSpec(every, phase)], start_at=start)
        found.state = ScheduleState(note="resumed by a person")
        return ScheduleUpdate(found)

    await wanted.update(change)


async def _handle(name: str) -> ScheduleHandle:
    """Of a declared schedule, which the server may not have yet."""
    await _put(asked := await client(), known(name))
    return asked.get_schedule_handle(name)


def known(name: str) -> Schedule:
    """The declared one; raises UnknownSchedule."""
    if name in (found := {schedule.name: schedule for schedule in declared()}):
        return found[name]
    raise UnknownSchedule(f"there is no schedule {name!r}; there are {', '.join(found)}")


async def make_due(job: str) -> None:
    """Let the schedules of this job fire now."""
    for name in [schedule.name for schedule in declared() if schedule.job.name == job]:
        await (await _handle(name)).trigger()
