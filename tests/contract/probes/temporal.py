"""Jobs that the contract tests submit: each shows one promise, and tells the payment gateway what it did."""

import asyncio
import os
import signal
import time
from datetime import timedelta

from temporalio import activity, workflow  # ty: ignore[import-not-found]

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel

    from ..runtime import (  # ty: ignore[import-not-found]
        JobWorkflow,
        PermanentError,
        RetryPolicy,
        Schedule,
        Snooze,
        TransientError,
        current_job,
        job,
        lock,
        progress,
        workflow_job,
    )
    from ..settings import settings  # ty: ignore[import-not-found]
    from .resources import http  # ty: ignore[import-not-found]

TWICE = RetryPolicy(attempts=2, base=0.1, cap=0.2)
SEVERAL = RetryPolicy(attempts=4, base=0.2, cap=1.0)
ANYTHING = RetryPolicy(attempts=4, base=0.2, cap=1.0, unknown="retry")


async def post(path: str, body: dict[str, object], key: str = "") -> None:
    url = f"{settings().payment_gateway_url}{path}"
    (await http().post(url, json=body, headers={"Idempotency-Key": key})).raise_for_status()


def attempt() -> int:
    running = current_job()
    return running.attempt if running else 0


async def tell(label: str, **more: object) -> None:
    """One more entry in the gateway's /effects, with the time and the job that it comes from."""
    running = current_job()
    assert running
    about = {"label": label, "at": time.time(), "id": running.id, "attempt": running.attempt}
    await post("/effects", {**about, **more})


async def effects(label: str) -> list[dict[str, object]]:
    """What the gateway knows under this label."""
    return (await http().get(f"{settings().payment_gateway_url}/effects", params={"label": label})).json()


class Effect(BaseModel):
    key: str
    seconds: float = 0
    after: float = 0


@job(queue="default", retry=SEVERAL, idempotency_key=lambda effect: effect.key)
async def effect(effect: Effect) -> str:
    """Work, charge once, work on."""
    await tell(f"start {effect.key}")
    await asyncio.sleep(effect.seconds)
    running = current_job()
    assert running
    await post("/charges", {"order_id": effect.key}, key=running.idempotency_key or "")
    await asyncio.sleep(effect.after)
    return effect.key


@job(queue="default", retry=None)
async def noop() -> None:
    """Nothing."""


@job(queue="default", retry=None)
async def mark(label: str, seconds: float = 0) -> str:
    """Say that it started, then work."""
    await tell(label)
    await asyncio.sleep(seconds)
    return label


@job(queue="default", retry=None)
async def family(label: str) -> None:
    """Send others."""
    for child in ("one", "first", "second", "part", "part", "then"):
        await mark.submit(f"{label} {child}")


@job(queue="default", retry=None)
async def steps(seconds: float) -> str:
    """Three stages of two steps."""
    for stage in ("VALIDATING", "PROCESSING", "UPLOADING"):
        for done in range(2):
            progress(stage=stage, done=done + 1, total=2, message=f"{stage.lower()} {done + 1}")
            await asyncio.sleep(seconds)
    return "uploaded"


@job(queue="default", retry=SEVERAL, no_key_because="it only tells")
async def flaky(label: str, times: int) -> int:
    """Fail so many times as if the network did, then succeed."""
    await tell(label)
    if attempt() <= times:
        raise TransientError(f"{label}: no answer")
    return attempt()


@job(queue="default", retry=TWICE, no_key_because="it only tells")
async def told_to_wait(label: str, seconds: float) -> None:
    """Be refused once with Retry-After."""
    await tell(label)
    if attempt() == 1:
        raise TransientError("429 too many requests", retry_after=seconds)


@job(queue="default", retry=ANYTHING, no_key_because="it only tells")
async def permanent(label: str) -> None:
    """Fail in a way that no retry mends."""
    await tell(label)
    raise PermanentError(f"{label}: card expired")


@job(queue="default", retry=SEVERAL, no_key_because="it only tells")
async def unexpected(label: str) -> None:
    """A bug."""
    await tell(label)
    raise ZeroDivisionError(f"{label}: nobody thought of this")


@job(queue="default", retry=TWICE, no_key_because="it only tells")
async def snoozing(label: str, times: int) -> None:
    """Come back later more often than there are attempts."""
    await tell(label)
    if len(await effects(label)) <= times:
        raise Snooze(0.2)


@job(queue="default", retry=TWICE, per_second=2, no_key_because="it only tells")
async def limited(label: str) -> None:
    """Four a second in the whole fleet."""
    await tell(label)


@job(queue="default", retry=None, singleton="wait")
async def exclusive(label: str, seconds: float) -> None:
    """Never two at once; the second waits."""
    await tell(label, step="start")
    await asyncio.sleep(seconds)
    await tell(label, step="end")


@job(queue="default", retry=None, singleton="skip")
async def exclusive_or_not(label: str, seconds: float) -> None:
    """Never two at once; the second is not needed."""
    await tell(label)
    await asyncio.sleep(seconds)


@job(queue="default", retry=None, soft_limit=2, hard_limit=3)
async def overrun(label: str, deaf: bool) -> None:
    """Work for ever; a deaf one does not hear its soft limit either."""
    await tell(label)
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if not deaf:
                raise


@job(queue="default", retry=None)
async def poison(label: str) -> None:
    """Kill the process it runs in, when those beside it have ended: they would be lost with it, and run again."""
    await tell(label)
    await asyncio.sleep(4)
    os.kill(os.getpid(), signal.SIGKILL)


@job(queue="default", retry=None)
async def poison_worker(label: str) -> None:
    """Kill the whole worker."""
    await tell(label)
    os.killpg(os.getpgid(0), signal.SIGKILL)


@job(queue="default", retry=None)
async def big(size: int) -> str:
    """A result of so many bytes."""
    return "x" * size


@job(queue="default", retry=None)
async def unserialisable() -> object:
    """A result that is no JSON."""
    return object()


@job(queue="default", retry=None)
async def tick() -> None:
    """What the schedule of the tests runs."""
    await tell("tick")


SCHEDULES = [Schedule("tick", tick, timedelta(seconds=2))]


# For test_temporal.py alone


@job(queue="default", retry=None)
async def measure(text: str) -> int:
    """How long its payload is."""
    return len(text)


@job(queue="default", retry=None)
async def echo(text: str) -> str:
    """Its payload in all that a job can say."""
    progress(stage="ECHO", message=text)
    activity.heartbeat(text)
    if text.endswith("!"):
        raise PermanentError(text)
    return text


@job(queue="default", retry=None)
def threaded(label: str, seconds: float) -> str:
    """A plain function, which runs in a thread."""
    time.sleep(seconds)
    running = current_job()
    return f"{label} {running.name if running else '?'}"


@job(queue="default", retry=TWICE, no_key_because="it only tells")
async def counting(label: str, upto: int) -> int:
    """Count, and go on where a killed worker stopped."""
    before = activity.info().heartbeat_details
    for number in range(before[0] if before else 0, upto):
        await tell(label, number=number)
        activity.heartbeat(number + 1)
        await asyncio.sleep(0.3)
    return upto


class Step(BaseModel):
    key: str
    name: str
    seconds: float = 0


async def step_of_the_outside_world(step: Step, doing: str, path: str) -> None:
    """One effect, however often it is asked for; the gateway may refuse it."""
    await tell(f"{step.key} {doing}", step=step.name)
    await asyncio.sleep(step.seconds)
    of = f"{step.key} {step.name}"
    url = f"{settings().payment_gateway_url}{path}"
    answer = await http().post(url, json={"order_id": of}, headers={"Idempotency-Key": of})
    if answer.is_error:
        raise PermanentError(f"{of}: refused with {answer.status_code}")


@job(queue="default", retry=TWICE, no_key_because="the gateway takes each key once")
async def do(step: Step) -> str:
    """A step."""
    await step_of_the_outside_world(step, "do", "/charges")
    return step.name


@job(queue="default", retry=TWICE, no_key_because="the gateway takes each key once")
async def undo(step: Step) -> None:
    """Takes it back."""
    await step_of_the_outside_world(step, "undo", "/refunds")


class Plan(BaseModel):
    """`slow` names what takes `seconds`, for instance `do charge`."""

    key: str
    slow: str = ""
    seconds: float = 0


@workflow.defn(name="three_steps")
class ThreeSteps(JobWorkflow):
    """Reserve, charge, ship; each can be undone."""

    @workflow.run
    async def run(self, plan: Plan) -> list[str]:
        done = []
        async with self.saga() as saga:
            for name in ("reserve", "charge", "ship"):
                to_do, to_undo = (
                    Step(key=plan.key, name=name, seconds=plan.seconds if plan.slow == f"{verb} {name}" else 0)
                    for verb in ("do", "undo")
                )
                self.progress(stage=name.upper())
                saga.undo(undo, to_undo)
                done.append(await self.step(do, to_do))
        return done


three_steps = workflow_job(ThreeSteps.run, queue="default", idempotency_key=lambda plan: plan.key)


@workflow.defn(name="consent")
class Consent(JobWorkflow):
    """Wait for a person."""

    @workflow.run
    async def run(self, seconds: float) -> str:
        decision = await self.decision("approve", timeout=timedelta(seconds=seconds))
        if decision is None:
            return "nobody decided"
        return f"{'approved' if decision.approved else 'refused'} by {decision.by}"


consent = workflow_job(Consent.run, queue="default")


@workflow.defn(name="sleeper")
class Sleeper(JobWorkflow):
    """Wait, then say so."""

    @workflow.run
    async def run(self, label: str, seconds: float) -> str:
        await self.step(mark, f"{label} begins")
        await self.pause(seconds)
        return await self.step(mark, f"{label} ends")


sleeper = workflow_job(Sleeper.run, queue="default")


@workflow.defn(name="locked")
class Locked(JobWorkflow):
    """Hold a lock over two steps."""

    @workflow.run
    async def run(self, label: str, seconds: float) -> None:
        async with lock("the only one"):
            await self.step(mark, f"{label} in", seconds)
            await self.step(mark, f"{label} out")


locked = workflow_job(Locked.run, queue="default")
