"""One scenario per pattern, as `demo` plays them: what is done, what must come of it, and why it does.

A scenario whose jobs you have deleted is left out.
"""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..contract import FINAL, IdempotencyConflict, JobStatus
from ..engine import Engine
from ..queues import DEFAULT_QUEUE, QUEUES
from .gateway import Failure, Gateway

LOOK_EVERY = 0.05  # seconds between looks at a job


class NotAsTold(Exception):
    """A scenario came out differently; the text says how."""


@dataclass
class Seen:
    """A job's last status, and the states and stages it was seen in on the way."""

    status: JobStatus
    states: list[str]
    stages: list[str]


@dataclass
class Row:
    """One line of the demo's table."""

    job: str
    shown: str
    attempts: int
    states: list[str]
    outcome: str
    why: str


class Stage:
    """What a scenario plays on."""

    def __init__(self, engine: Engine, gateway: Gateway) -> None:
        self.engine = engine
        self.gateway = gateway

    async def follow(self, job_id: str, until: Callable[[JobStatus], bool] = lambda job: job.state in FINAL) -> Seen:
        """Watch a job until it ends, or `until` holds."""
        seen = Seen(await self.engine.status(job_id), [], [])
        while True:
            for values, value in ((seen.states, seen.status.state), (seen.stages, seen.status.progress.stage)):
                if value and value not in values[-1:]:
                    values.append(value)
            if until(seen.status):
                return seen
            await asyncio.sleep(LOOK_EVERY)
            seen.status = await self.engine.status(job_id)

    async def run(self, job: str, payload: Any = None, **options: Any) -> Seen:
        """Submit a job and follow it to its end."""
        return await self.follow((await self.engine.submit(job, payload, **options)).id)

    async def result(self, job_id: str) -> bytes:
        """A job's result, streamed."""
        result = await self.engine.result(job_id)
        if result.chunks is None:
            raise NotAsTold(f"the result is only a link: {result.url}")
        return b"".join([chunk async for chunk in result.chunks])


class Scenario(NamedTuple):
    """What to play, and the jobs it needs."""

    name: str
    play: Callable[[Stage], Coroutine[Any, Any, Row]]
    needs: set[str]


def told(condition: object, otherwise: str) -> None:
    """Raises NotAsTold unless the condition holds."""
    if not condition:
        raise NotAsTold(otherwise)


def order(order_id: str, **more: Any) -> dict[str, Any]:
    return {"order_id": order_id, "amount_cents": 1999, **more}


async def transient_errors(stage: Stage) -> Row:
    failure = Failure(status=503, path="/charges", order_id="retried")
    stage.gateway.fail(failure, Failure(status=503, path="/charges", order_id="retried", after_effect=True))
    seen = await stage.run("process_order", order("retried"))
    charges = stage.gateway.effects("/charges", order_id="retried")
    told(seen.status.state == "succeeded", f"it {seen.status.state}: {seen.status.error}")
    told(seen.status.attempts == 3 and len(charges) == 1, f"{seen.status.attempts} attempts, {len(charges)} charges")
    why = "503 twice, once after the money had moved: retried with backoff under one key"
    return Row("process_order", "retry", 3, seen.states, "succeeded, 1 charge", why)


async def same_key(stage: Stage) -> Row:
    first = await stage.engine.submit("process_order", order("twice"))
    second = await stage.engine.submit("process_order", order("twice"))
    told(first.id == second.id and not second.created, f"two jobs: {first.id} and {second.id}")
    try:
        await stage.engine.submit("process_order", order("twice", tier="enterprise"))
        raise NotAsTold("the same key with another payload was accepted")
    except IdempotencyConflict:
        seen = await stage.follow(first.id)
    charges = stage.gateway.effects("/charges", order_id="twice")
    told(len(charges) == 1, f"{len(charges)} charges")
    why = "the key is the order's id; with another payload it is a conflict"
    return Row("process_order", "same key twice", seen.status.attempts, seen.states, "one job, 1 charge", why)


async def dead_letter(stage: Stage) -> Row:
    stage.gateway.fail(Failure(status=402, path="/charges", order_id="declined"))
    seen = await stage.run("process_order", order("declined"))
    told(seen.status.dead_letter and seen.status.attempts == 1, f"it {seen.status.state}: {seen.status.error}")
    letter = await stage.engine.dead_letter(seen.status.id)
    told(letter.reason == "permanent", f"the reason is {letter.reason}")
    replay, again = await stage.engine.replay(letter.id), await stage.engine.replay(letter.id)
    told(again.id == replay.id and not again.created, "replayed twice, it ran twice")
    replayed = await stage.follow(replay.id)
    told(replayed.status.state == "succeeded", f"the replay {replayed.status.state}: {replayed.status.error}")
    told(replayed.status.replay_of == letter.id, f"the replay names {replayed.status.replay_of} as its original")
    why = f"402 is permanent, no retry; replayed once as …{replay.id[-8:]}, which names …{letter.id[-8:]}"
    return Row("process_order", "dead letter, replay", 1, seen.states, "failed; replay succeeded", why)


async def large_result(stage: Stage) -> Row:
    rows = 20_000
    seen = await stage.run("generate_report", {"title": "Demo", "rows": rows})
    told(seen.status.state == "succeeded", f"it {seen.status.state}: {seen.status.error}")
    told(seen.stages[-1:] == ["UPLOADING"] and seen.status.progress.done == rows, f"its stages were {seen.stages}")
    size = len(await stage.result(seen.status.id))
    told(size == seen.status.result_size and size > 65_536, f"{size} bytes of {seen.status.result_size} came back")
    states = [*seen.states[:-1], *seen.stages, *seen.states[-1:]]
    why = "over 64 KiB: kept outside the broker, streamed back by reference"
    return Row("generate_report", "stages, large result", seen.status.attempts, states, f"{size:,} bytes", why)


async def fan_in(stage: Stage) -> Row:
    items = [{"sku": f"A{number}", "price_cents": -1 if number == 3 else 100 * number} for number in range(8)]
    seen = await stage.run("import_catalog", {"supplier": "acme", "items": items})
    told(seen.status.state == "succeeded", f"it {seen.status.state}: {seen.status.error}")
    summary = json.loads(await stage.result(seen.status.id))
    why = "the bad part is in the summary, and the import succeeds without it"
    if isinstance(summary, str):  # where each step is a job of its own: the id of the last one
        why = "the bad part is a dead letter, and the fan-in hears of it instead of never running"
        publish = await stage.follow(summary)
        told(publish.status.state == "succeeded", f"the fan-in {publish.status.state}: {publish.status.error}")
        summary = json.loads(await stage.result(publish.status.id))
    told(summary["imported"] == 7 and len(summary["failed"]) == 1, f"the fan-in reports {summary}")
    return Row("import_catalog", "fan-out, fan-in", seen.status.attempts, seen.states, "7 imported, 1 failed", why)


async def singleton(stage: Stage) -> Row:
    first, second = await asyncio.gather(stage.run("rebuild_index"), stage.run("rebuild_index"))
    states = max(first.states, second.states, key=len)
    early, late = sorted((first.status, second.status), key=lambda job: job.finished_at or 0)
    told((early.state, late.state) == ("succeeded", "succeeded"), f"they {early.state} and {late.state}")
    told((late.started_at or 0) >= (early.finished_at or 0), "both ran at the same time")
    told(late.attempts == 1, f"waiting spent attempts: {late.attempts}")
    why = "the second waited for the first one's lock, which spends no attempt"
    return Row("rebuild_index", "singleton, twice", late.attempts, states, "one after the other", why)


async def routing(stage: Stage) -> Row:
    standard = await stage.run("ship_order", order("plain"))
    urgent = await stage.run("ship_order", order("vip", tier="enterprise"))
    queues = [standard.status.queue, urgent.status.queue]
    told(queues == [DEFAULT_QUEUE, QUEUES[0].name], f"the orders went to {queues}")
    told(urgent.status.priority > standard.status.priority, "the enterprise order was no more urgent")
    outcome = f"{queues[1]}, priority {urgent.status.priority}"
    why = f"a rule for tier enterprise; a standard one goes to {queues[0]}, priority {standard.status.priority}"
    return Row("ship_order", "content-based routing", urgent.status.attempts, urgent.states, outcome, why)


async def compensation(stage: Stage) -> Row:
    stage.gateway.fail(Failure(status=422, times=None, path="/shipments", order_id="unshippable"))
    seen = await stage.run("fulfil_order", order("unshippable"))
    if seen.status.dead_letter:  # where one job takes all steps, it keeps what was done and waits for a person
        await stage.engine.cancel(seen.status.id)
    else:  # where each step is a job of its own
        told(seen.status.state == "succeeded", f"it {seen.status.state}: {seen.status.error}")
        shipment = await stage.follow(json.loads(await stage.result(seen.status.id)))
        told(shipment.status.state == "failed", f"the shipment {shipment.status.state}")
    while not (refunds := stage.gateway.effects("/refunds", order_id="unshippable")):
        await asyncio.sleep(LOOK_EVERY)
    charges = stage.gateway.effects("/charges", order_id="unshippable")
    told((len(charges), len(refunds)) == (1, 1), f"{len(charges)} charges, {len(refunds)} refunds")
    why = "charged, then the shipment failed for good: the step before it was undone"
    return Row("fulfil_order", "compensation", seen.status.attempts, seen.states, "1 charge, 1 refund", why)


async def delayed(stage: Stage) -> Row:
    asked = time.time()
    seen = await stage.run("send_digest", {"day": "demo"}, delay=2)
    told(seen.status.state == "succeeded", f"it {seen.status.state}: {seen.status.error}")
    told(seen.states[0] == "scheduled", f"its states were {seen.states}")
    waited = (seen.status.started_at or 0) - asked
    told(waited >= 2, f"it started after {waited:.1f} s")
    outcome = f"started after {waited:.1f} s"
    return Row("send_digest", "delay of 2 s", seen.status.attempts, seen.states, outcome, "not before it is due")


async def schedules(stage: Stage) -> Row:
    listed = await stage.engine.schedules()
    while not (fired := next((one for one in listed if one.runs), None)):
        await asyncio.sleep(LOOK_EVERY * 4)
        listed = await stage.engine.schedules()
    told(all(one.next_run_at for one in listed), "a schedule has no next run")
    upcoming = ", ".join(f"{one.name} {_clock(one.next_run_at)}" for one in listed)
    return Row(fired.job, "schedule", 1, [], "fired by the scheduler", f"next (UTC): {upcoming}")


async def polling(stage: Stage) -> Row:
    submission = await stage.engine.submit("poll_supplier", None, key="supplier")
    seen = await stage.follow(submission.id, until=lambda job: job.state == "scheduled" and bool(job.due_at))
    pause = (seen.status.due_at or 0) - time.time()
    told(25 < pause <= 33, f"the next poll is due in {pause:.0f} s")
    why = "no news: then in 60 s, up to 300 s, each up to a tenth later; waiting spends no attempt"
    return Row("poll_supplier", "adaptive polling", seen.status.attempts, seen.states, "polled; again in 30 s", why)


def _clock(moment: float | None) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(moment))


SCENARIOS = (
    Scenario("transient errors", transient_errors, {"process_order"}),
    Scenario("same key", same_key, {"process_order"}),
    Scenario("dead letter", dead_letter, {"process_order"}),
    Scenario("large result", large_result, {"generate_report"}),
    Scenario("fan in", fan_in, {"import_catalog"}),
    Scenario("singleton", singleton, {"rebuild_index"}),
    Scenario("routing", routing, {"ship_order"}),
    Scenario("compensation", compensation, {"fulfil_order"}),
    Scenario("delayed", delayed, {"send_digest"}),
    Scenario("schedules", schedules, {"sync_inventory"}),
    Scenario("polling", polling, {"poll_supplier"}),
)
