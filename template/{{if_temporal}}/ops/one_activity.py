"""The workflow of each job that is a function, and what every job's workflow tells the server and its activities.

One class serves all of them ("dynamic"), also names that this service does not know and input that it cannot read:
without it such a workflow would be stuck, tried for ever and seen by nobody.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from pydantic_core import from_json
from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ActivityError, ApplicationError, FailureError, is_cancelled_exception
from temporalio.worker import (
    ContinueAsNewInput,
    ExecuteWorkflowInput,
    HandleSignalInput,
    HandleUpdateInput,
    StartActivityInput,
    StartLocalActivityInput,
    WorkflowInboundInterceptor,
    WorkflowOutboundInterceptor,
)

from ..documents import NotJsonError
from ..payloads import as_json
from ..runtime.job import Job, jobs
from ..runtime.parking import DISCARDED, Failure, failure
from ..runtime.progress import Book
from ..runtime.waiting import lock
from ..runtime.workflows import JobWorkflow, to_its_end
from .contained import contained
from .execution import BOOK, CARRIED


@workflow.defn(dynamic=True, sandboxed=False)
class OneActivity(JobWorkflow):
    """Runs the function as an activity; parks if that fails for good."""

    counts_runs = True

    @workflow.run
    async def run(self, args: Sequence[RawValue]) -> RawValue:
        """The function's result."""
        name = workflow.info().workflow_type
        job = jobs().get(name)
        if refused := _refused(name, job, args):
            await self.park(refused)
            workflow.continue_as_new(args=list(args))  # replayed: by a worker that may know it by now
        assert job
        while True:
            try:
                return await self._result(job, args)
            except ActivityError as error:  # without the lock of a singleton, which others may need
                if is_cancelled_exception(error):
                    raise
                if workflow.cancellation_reason() is not None and workflow.patched("heed-cancel"):
                    raise asyncio.CancelledError from error  # it failed before it learned of that
                await self.park(failure(error, name))

    async def _result(self, job: Job[Any, Any], args: Sequence[RawValue]) -> RawValue:
        singleton = self.job.get("singleton") if self.job else job.singleton
        if singleton is None:
            return await self._run(job, args)
        async with lock(f"singleton:{job.name}", wait=singleton != "skip") as mine:
            self.skipped = not mine
            return await self._run(job, args) if mine else RawValue(workflow.payload_converter().to_payload(None))

    async def _run(self, job: Job[Any, Any], args: Sequence[RawValue]) -> RawValue:
        result: RawValue = await self.run_activity(job, args, RawValue)
        if book := result.payload.metadata.pop(BOOK, None):
            self.book = Book(**from_json(book))
        self.size = len(result.payload.data)
        return result


def _refused(name: str, job: Job[Any, Any] | None, args: Sequence[RawValue]) -> Failure | None:
    """Why this worker cannot run it. A replay decides as the first run did, whatever the code knows by now."""
    if workflow.unsafe.is_replaying() and not workflow.patched("refused"):
        return None
    if job is None or job.workflow:
        found = Failure("unknown job", f"there is no job {name!r} in this service", name)
    elif problem := _undecodable(job, args):
        found = Failure("undecodable", f"{name}: its input cannot be read: {problem}", name, replayable=False)
    elif workflow.unsafe.is_replaying():
        found = Failure("unknown job", f"an older version did not know {name!r}", name)
    else:
        return None
    workflow.patched("refused")
    return found


def _undecodable(job: Job[Any, Any], args: Sequence[RawValue]) -> str | None:
    """What is wrong with its input."""
    types = job.types()
    if len(args) > len(types):
        return f"there are {len(args)} arguments, it takes {len(types)}"
    try:
        for arg, kind in zip(args, types, strict=False):
            workflow.payload_converter().from_payload(arg.payload, kind)
    except Exception as error:
        return str(error)
    return None


class JobInbound(WorkflowInboundInterceptor):
    """Writes down how a job's workflow ended."""

    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        super().init(JobOutbound(outbound))

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        with contained():
            return await self._execute(input)

    async def handle_signal(self, input: HandleSignalInput) -> None:
        with contained():
            await super().handle_signal(input)

    async def handle_update_handler(self, input: HandleUpdateInput) -> Any:
        with contained():
            return await super().handle_update_handler(input)

    async def _execute(self, input: ExecuteWorkflowInput) -> Any:
        instance = workflow.instance()
        if not isinstance(instance, JobWorkflow):
            return await super().execute_workflow(input)
        try:
            result = await self._run_to_its_end(instance, input)
        except (asyncio.CancelledError, FailureError) as error:
            if is_cancelled_exception(error) and workflow.cancellation_reason() is not None:
                instance.ended("cancelled")
            else:
                discarded = getattr(error, "type", None) == DISCARDED
                instance.ended("discarded" if discarded else "failed", error)
            raise
        if not isinstance(result, RawValue):
            result = _as_json(result)
            instance.size = len(result.payload.data)
        instance.ended("succeeded")
        return result

    async def _run_to_its_end(self, instance: JobWorkflow, input: ExecuteWorkflowInput) -> Any:
        """Also what it takes back beside the part whose end was its own; raises one failure of several at once."""
        try:
            return await super().execute_workflow(input)
        except BaseExceptionGroup as group:  # of an asyncio.TaskGroup
            failed = [error for error in _each(group) if not is_cancelled_exception(error)]
            if not all(isinstance(error, FailureError) for error in failed):
                raise
            first = (failed or [*_each(group)])[0]
            raise first from first.__cause__
        finally:
            if instance.undoing and workflow.patched("undo-to-the-end"):
                await to_its_end(workflow.wait_condition(lambda: not instance.undoing))


def _each(group: BaseExceptionGroup) -> Iterator[BaseException]:
    for error in group.exceptions:
        yield from _each(error) if isinstance(error, BaseExceptionGroup) else [error]


def _as_json(result: object) -> RawValue:
    """Raises ApplicationError: such a workflow fails, and is reset to its last step when it is replayed."""
    try:
        return RawValue(as_json(result))
    except NotJsonError as error:
        text = f"{workflow.info().workflow_type} returned {type(result).__name__}, which is not JSON: {error}"
        raise ApplicationError(text, type="permanent", non_retryable=True) from error


class JobOutbound(WorkflowOutboundInterceptor):
    """Tells each activity of the job that it belongs to."""

    def start_activity(self, input: StartActivityInput) -> workflow.ActivityHandle[Any]:
        instance = workflow.instance()
        if isinstance(instance, JobWorkflow):
            carried = workflow.payload_converter().to_payload(instance.carried())
            input.headers = {**input.headers, CARRIED: carried}
        return super().start_activity(input)

    def start_local_activity(self, input: StartLocalActivityInput) -> workflow.ActivityHandle[Any]:
        if input.activity in jobs():
            text = f"{input.activity} is a job, which a local activity runs without its limits, retries and cancel"
            raise RuntimeError(f"{text}: await self.step(…) or workflow.execute_activity(…)")
        return super().start_local_activity(input)

    def continue_as_new(self, input: ContinueAsNewInput) -> NoReturn:
        instance = workflow.instance()
        if isinstance(instance, JobWorkflow):
            first = {"first_start": workflow.info().start_time.timestamp()}
            input.memo = {**workflow.memo(), **(input.memo or {}), "job": {**first, **instance.job}}
        super().continue_as_new(input)
