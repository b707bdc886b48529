"""What the workflow of a job can do: steps that park instead of failing, a saga, a person's decision, a pause.

This code is replayed: it may not read a clock, make a random number or do I/O, except through `workflow`.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, ParamSpec, TypeVar

from pydantic import BaseModel, ConfigDict
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ChildWorkflowError,
    FailureError,
    is_cancelled_exception,
)
from temporalio.workflow import ActivityCancellationType, ChildWorkflowCancellationType

from ..settings import settings
from .bounds import report
from .connection import JOB_STATE
from .job import Job
from .parking import Parking, failure

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
UNTIL_TOLD = RetryPolicy(initial_interval=timedelta(seconds=1), backoff_coefficient=1)
"""The server retries after a crash; after an error the job's own policy says when, in execution.py."""


class Decision(BaseModel):
    """What a person decided, and who."""

    model_config = ConfigDict(extra="forbid")

    approved: bool
    by: str = ""
    comment: str = ""


class Outcome(BaseModel, Generic[R]):
    """How an attempt of a step that may fail ended."""

    ok: bool
    value: R | None = None
    error: str | None = None
    reason: str | None = None


@dataclass
class Saga:
    """What has been done and is to be taken back, newest first."""

    undoing: list[tuple[Job[Any, Any], tuple[Any, ...]]] = field(default_factory=list)
    outer: "Saga | None" = None
    steps: dict["asyncio.Task[Any]", int] = field(default_factory=dict)
    """How many run in each task that was made in its block."""
    over: bool = False

    def undo(self, job: Job[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
        """Register it *before* the step: a step that was interrupted may have had its effect."""
        self.undoing.append((job, job.positional(args, kwargs)))


in_saga: ContextVar[Saga | None] = ContextVar("in_saga", default=None)


class JobWorkflow(Parking):
    """The base of a workflow that is a job."""

    def __init__(self) -> None:
        super().__init__()
        self._decision: Decision | None = None

    async def step(self, job: Job[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a job as a step; if it fails for good, park until somebody replays, discards or cancels.

        A function is run as an activity, a workflow as a child. A cancel ends the workflow with the step that runs.
        """
        return await self._until_done(job, job.positional(args, kwargs))

    async def attempt(self, job: Job[P, R], *args: P.args, **kwargs: P.kwargs) -> Outcome[R]:
        """The same, but a failure is told instead: for parts that may fail alone."""
        try:
            with _running(in_saga.get()):
                return Outcome(ok=True, value=await self._run(job, job.positional(args, kwargs)))
        except (ActivityError, ChildWorkflowError) as error:
            failed = failure(error, job.name)
            return Outcome(ok=False, error=failed.error, reason=failed.reason)

    async def _until_done(self, job: Job[Any, R], args: Sequence[Any], *, undo: bool = False) -> R:
        while True:
            try:
                with _running(in_saga.get(), undo=undo):
                    return await self._run(job, args)
            except (ActivityError, ChildWorkflowError) as error:
                await self.park(failure(error, job.name))

    async def _run(self, job: Job[Any, R], args: Sequence[Any]) -> R:
        return await heed_cancel(self._child(job, args) if job.workflow else self.run_activity(job, args, job.result))

    async def _child(self, job: Job[Any, R], args: Sequence[Any]) -> R:
        told = self.carried()
        memo = {"trace_id": told["trace_id"], "parent": told["id"], "root": told.get("root") or told["id"]}
        return await workflow.execute_child_workflow(
            job.name,
            args=args,
            task_queue=job.queue or workflow.info().task_queue,
            result_type=job.result,
            memo={"job": {"v": 1, "priority": job.priority, **memo}},
            cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
        )

    @asynccontextmanager
    async def saga(self) -> AsyncGenerator[Saga]:
        """Steps that are undone, newest first, if the block fails or is cancelled; undoing retries and parks, too."""
        saga = Saga(outer=in_saga.get())
        token = in_saga.set(saga)
        try:
            yield saga
        except workflow.ContinueAsNewError:
            raise
        except (Exception, asyncio.CancelledError):
            saga.over = True
            self.undoing += 1
            try:
                with _running(saga.outer, undo=True):
                    await to_its_end(_end_steps(saga))  # or an undo could be faster than what it undoes
                    self._discarded = None  # what is undone may park, too
                    for job, args in reversed(saga.undoing):
                        await to_its_end(self._until_done(job, args, undo=True))
            finally:
                self.undoing -= 1
            raise
        finally:
            in_saga.reset(token)

    async def decision(self, about: str, timeout: timedelta) -> Decision | None:
        """Wait for a person's `decide`; None after the timeout."""
        self.waiting_for, self._decision = about, None
        workflow.upsert_memo({"waiting_for": about})
        if not self._parked:
            self.list_as_waiting()
        try:
            with suppress(TimeoutError):
                await workflow.wait_condition(lambda: self._decision is not None, timeout=timeout)
        finally:
            self.waiting_for = None
            workflow.upsert_memo({"waiting_for": None})
            if workflow.info().typed_search_attributes.get(JOB_STATE) == "waiting":
                self.list_as_waiting()
        return self._decision

    async def pause(self, seconds: float) -> None:
        """Go on later; shown as `scheduled`. Costs nothing meanwhile, however long."""
        workflow.upsert_memo({"pause": workflow.now().timestamp() + seconds})
        workflow.upsert_search_attributes([JOB_STATE.value_set("paused")])
        await workflow.sleep(seconds)
        workflow.upsert_memo({"pause": None})
        self.list_as_waiting()

    def progress(
        self, *, stage: str | None = None, done: int | None = None, total: int | None = None, message: str | None = None
    ) -> None:
        """How far it is; what is left out stays as it was."""
        at = workflow.now().timestamp()
        self.reported |= {**report(stage=stage, done=done, total=total, message=message), "updated_at": at}

    @workflow.query(name="progress")
    def tell_progress(self) -> dict[str, Any]:
        return self.reported

    @workflow.update
    def decide(self, decision: Decision) -> None:
        """Once, and only while it waits for one."""
        self._decision = decision

    @decide.validator
    def _can_be_decided(self, decision: Decision) -> None:
        if self.waiting_for is None or self._decision is not None:
            raise ApplicationError("it waits for no decision", type="NotWaiting")

    async def run_activity(self, job: Job[Any, Any], args: Sequence[Any], result: type | None) -> Any:
        """With the job's own queue, limits and signs of life."""
        here = workflow.info().task_queue
        queue = here if self.counts_runs else job.queue or here
        return await workflow.execute_activity(
            job.name,
            args=args,
            task_queue=job.task_queue(queue),
            start_to_close_timeout=timedelta(seconds=job.hard_limit + settings().lease),
            heartbeat_timeout=timedelta(seconds=settings().lease),
            retry_policy=UNTIL_TOLD,
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            result_type=result,
        )


async def heed_cancel(run: Coroutine[Any, Any, T]) -> T:
    """Raise CancelledError if this task was cancelled meanwhile, also if what ran had ended before it learned of that.

    An activity learns of its cancel by a heartbeat: one that ends sooner would use the cancel up, and the steps after
    it would run.
    """
    task = asyncio.current_task()
    assert task
    before = task.cancelling()
    try:
        result = await run
    except FailureError as error:
        if is_cancelled_exception(error) or _was_cancelled(task, before):
            raise asyncio.CancelledError from error
        raise
    if _was_cancelled(task, before):
        raise asyncio.CancelledError
    return result


def _was_cancelled(task: "asyncio.Task[Any]", before: int) -> bool:
    return task.cancelling() > before and workflow.patched("heed-cancel")


@contextmanager
def _running(saga: Saga | None, *, undo: bool = False) -> Generator[None]:
    """While this task runs a step of these sagas; nothing but an undo begins in one that is over."""
    sagas, task = list[Saga](), asyncio.current_task()
    assert task
    while saga:
        sagas.append(saga)
        saga = saga.outer
    if not undo and any(each.over for each in sagas):
        raise asyncio.CancelledError
    for each in sagas:
        each.steps[task] = each.steps.get(task, 0) + 1
    try:
        yield
    finally:
        for each in sagas:
            each.steps[task] -= 1


async def _end_steps(saga: Saga) -> None:
    """Cancel the steps of its block that still run, in tasks that it made, and wait until they have ended."""
    running = [task for task, steps in saga.steps.items() if steps]
    if running and workflow.patched("end-steps"):
        for task in running:
            task.cancel()
        await workflow.wait(running)


async def to_its_end(step: Coroutine[Any, Any, Any]) -> None:
    """However often the workflow is cancelled meanwhile."""
    task = asyncio.ensure_future(step)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
