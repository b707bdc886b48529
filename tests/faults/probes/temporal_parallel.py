"""Parts of a workflow that run beside each other, and jobs and workflows that cancel themselves."""

import asyncio
from datetime import timedelta

from temporalio import activity, workflow  # ty: ignore[import-not-found]
from temporalio.common import RetryPolicy as Tries  # ty: ignore[import-not-found]

with workflow.unsafe.imports_passed_through():
    from ..runtime import JobWorkflow, PermanentError, job, workflow_job  # ty: ignore[import-not-found]
    from .probes import effects, tell  # ty: ignore[import-not-found]

ONCE = Tries(maximum_attempts=1)


@job(queue="default", retry=None)
async def done_or_dead(label: str, name: str, dead: bool = False) -> str:
    """A step: is told, and fails for good if it is to."""
    await tell(f"{label} {name}")
    if dead:
        raise PermanentError(name)
    return name


@job(queue="default", retry=None)
async def cancels_its_task(label: str, how: str) -> str:
    """Of its own accord: nobody has asked for that."""
    await tell(label)
    task = asyncio.current_task()
    assert task
    task.cancel()
    if how == "awaits":
        await asyncio.sleep(1)
    return label


@activity.defn
async def fails_at_first(label: str) -> str:
    if not await effects(f"{label} again"):
        raise ValueError("the cause itself")
    return "passed"


@workflow.defn(name="parallel")
class Parallel(JobWorkflow):
    """Each method is one way."""

    @workflow.run
    async def run(self, label: str, what: str) -> object:
        return await getattr(self, what)(label)

    async def one_of_two_gives_up(self, label: str) -> object:
        async def limited() -> str:
            try:
                return await asyncio.wait_for(self.step(done_or_dead, label, "first", True), 2)
            except TimeoutError:
                return "late"

        return await asyncio.gather(limited(), self.step(done_or_dead, label, "second", True))

    async def _saga(self, label: str, name: str, steps: int) -> None:
        async with self.saga() as saga:
            for number in range(steps):
                saga.undo(done_or_dead, label, f"undo {name} {number}")
                await self.step(done_or_dead, label, f"{name} {number}")
            await self.step(done_or_dead, label, f"{name} last", True)

    async def sagas_gathered(self, label: str) -> object:
        return await asyncio.gather(self._saga(label, "a", 1), self._saga(label, "b", 4))

    async def sagas_in_a_task_group(self, label: str) -> object:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._saga(label, "a", 1))
            group.create_task(self._saga(label, "b", 4))
        return None

    async def plain_activity_fails(self, label: str) -> object:
        limit = timedelta(seconds=9)
        return await workflow.execute_activity(fails_at_first, label, start_to_close_timeout=limit, retry_policy=ONCE)

    async def cancels_its_step(self, label: str) -> object:
        step = asyncio.create_task(self.step(done_or_dead, label, "first", True))
        await asyncio.sleep(1)
        step.cancel()
        return await step


parallel = workflow_job(Parallel.run, queue="default", idempotency_key=lambda label, what: label)
