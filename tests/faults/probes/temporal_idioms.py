"""Temporal's own idioms, as a developer brings them: workflows and activities that are no jobs; its calls in jobs."""

import asyncio
import time
from datetime import timedelta

from temporalio import activity, workflow  # ty: ignore[import-not-found]
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory  # ty: ignore[import-not-found]

with workflow.unsafe.imports_passed_through():
    from ..runtime import (  # ty: ignore[import-not-found]
        JobWorkflow,
        RetryPolicy,
        current_job,
        job,
        workflow_job,
    )
    from .faults import tell_blocking  # ty: ignore[import-not-found]
    from .probes import mark, tell  # ty: ignore[import-not-found]

SOON = timedelta(seconds=20)
THRICE = RetryPolicy(attempts=3, base=0.1, cap=0.2)


@activity.defn
async def plain_activity(text: str) -> str:
    return f"plain {text}"


@activity.defn
def plain_activity_in_a_thread(text: str) -> str:
    return f"thread {text}"


@activity.defn
async def plain_async_completion() -> None:
    activity.raise_complete_async()


class Mailer:
    """Activities with an object of their own."""

    def __init__(self, sender: str) -> None:
        self.sender = sender

    @activity.defn
    async def plain_method(self, text: str) -> str:
        return f"{self.sender}: {text}"


ACTIVITIES = [Mailer("desk").plain_method]


@workflow.defn
class PlainFlow:
    """Nothing of it is this service's."""

    def __init__(self) -> None:
        self.approved = False
        self.notes: list[str] = []

    @workflow.run
    async def run(self, what: str) -> list[str]:
        if what == "waits":
            await workflow.wait_condition(lambda: self.approved)
        if what == "fails":
            raise ApplicationError("a plain failure", type="Plain", non_retryable=True)
        if what == "bytes":
            return b"\xff\xfe"  # ty: ignore[invalid-explicit-return]
        called = [plain_activity, plain_activity_in_a_thread]
        results = [await workflow.execute_activity(each, what, start_to_close_timeout=SOON) for each in called]
        results.append(await workflow.execute_activity_method(Mailer.plain_method, what, start_to_close_timeout=SOON))
        results.append(
            await workflow.execute_local_activity(plain_activity, f"local {what}", start_to_close_timeout=SOON)
        )
        return results + self.notes

    @workflow.signal
    def approve(self) -> None:
        self.approved = True

    @workflow.query
    def is_approved(self) -> bool:
        return self.approved

    @workflow.update
    def annotate(self, note: str) -> int:
        self.notes.append(note)
        return len(self.notes)


@workflow.defn
class PlainAsyncFlow:
    """Waits for an activity that another program completes."""

    @workflow.run
    async def run(self) -> object:
        return await workflow.execute_activity("plain_async_completion", start_to_close_timeout=SOON)


@job(queue="default", retry=THRICE, no_key_because="it only reports")
async def as_temporal_says(label: str, how: str) -> str:
    """Fail as a Temporal developer does, the first time."""
    await tell(label)
    first = activity.info().attempt == 1
    if how == "retryable" and first:
        raise ApplicationError("again", type="Busy", next_retry_delay=timedelta(seconds=0.2))
    if how == "benign" and first:
        raise ApplicationError("again", type="Busy", category=ApplicationErrorCategory.BENIGN)
    if how == "non-retryable":
        raise ApplicationError("never", type="Declined", non_retryable=True)
    if how == "async completion":
        activity.raise_complete_async()
    if how == "heartbeat that is not JSON":
        activity.heartbeat(object())
    if how == "heartbeat with NaN":
        activity.heartbeat(float("nan"))
    return how


@job(queue="default", retry=None)
async def knows_its_cancel(label: str) -> str:
    """`wait_for_cancelled` returns, and it ends by itself."""
    await tell(label)
    try:
        await activity.wait_for_cancelled()
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await tell(f"{label} cancelled")
        raise
    return "?"


@job(queue="default", retry=None)
def shields_its_thread(label: str) -> str:
    """A block that a cancel does not interrupt."""
    tell_blocking(label)
    with activity.shield_thread_cancel_exception():
        began = time.monotonic()
        while time.monotonic() - began < 4:
            time.sleep(0.1)
        tell_blocking(f"{label} whole")
    while time.monotonic() - began < 60:
        time.sleep(0.1)
    return "?"


@job(queue="default", retry=THRICE, no_key_because="it only reports")
def details_in_a_thread(label: str) -> int:
    """Go on where the try before stopped."""
    before = activity.info().heartbeat_details
    done = before[0] if before else 0
    activity.heartbeat(done + 1)
    if done < 2:
        raise ConnectionError("not yet")
    return done


@workflow.defn(name="idioms")
class Idioms(JobWorkflow):
    """A job's workflow, in which Temporal's own calls are made."""

    @workflow.run
    async def run(self, label: str, what: str) -> object:
        return await getattr(self, what)(label)

    async def plain_activity(self, label: str) -> object:
        return await workflow.execute_activity(plain_activity, label, start_to_close_timeout=SOON)

    async def job_by_its_name(self, label: str) -> object:
        args = [label, "retryable"]
        return await workflow.execute_activity("as_temporal_says", args=args, start_to_close_timeout=SOON)

    async def local_activity(self, label: str) -> object:
        return await workflow.execute_local_activity(plain_activity, label, start_to_close_timeout=SOON)

    async def job_as_a_local_activity(self, label: str) -> object:
        return await workflow.execute_local_activity("mark", label, start_to_close_timeout=SOON)

    async def child(self, label: str) -> object:
        return await self.step(idioms, label, "plain_activity")

    async def plain_child(self, label: str) -> object:
        return await workflow.execute_child_workflow(PlainFlow.run, label)

    async def returns_bytes(self, label: str) -> object:
        return b"\xff"

    async def returns_nan(self, label: str) -> object:
        return float("nan")

    async def system_exit(self, label: str) -> object:
        raise SystemExit(3)

    async def keyboard_interrupt(self, label: str) -> object:
        raise KeyboardInterrupt

    async def own_base_exception(self, label: str) -> object:
        class Own(BaseException):
            pass

        raise Own("on its own")

    async def generator_exit(self, label: str) -> object:
        raise GeneratorExit

    async def system_exit_in_a_task(self, label: str) -> object:
        async def leave() -> None:
            raise SystemExit(3)

        await asyncio.create_task(leave())
        return None

    async def continues(self, label: str) -> object:
        await self.step(mark, label)
        workflow.continue_as_new(args=[label, "plain_activity"])

    async def waits(self, label: str) -> object:
        await self.step(mark, label)
        await workflow.sleep(60)
        return label


idioms = workflow_job(Idioms.run, queue="default")


def of(label: str) -> str:
    """What a job knows of itself."""
    running = current_job()
    return f"{label} {running.id if running else '?'}"
