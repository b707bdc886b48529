"""Workflows of each construct, to be cancelled while their first parts run; `later` must never begin."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from datetime import timedelta

from temporalio import workflow  # ty: ignore[import-not-found]

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel

    from ..runtime import (  # ty: ignore[import-not-found]
        JobWorkflow,
        PermanentError,
        RetryPolicy,
        Snooze,
        TransientError,
        job,
        workflow_job,
    )
    from .probes import effects, tell  # ty: ignore[import-not-found]


class Plan(BaseModel):
    """`then` is what a first part does when it is cancelled."""

    label: str
    shape: str
    then: str
    fails: bool = False


class Part(BaseModel):
    plan: Plan
    name: str


async def work(label: str, then: str) -> None:
    """Until `go`, which is there once the workflow was cancelled: before a heartbeat tells of it, or after that."""
    try:
        while not await effects(f"{label} go"):
            await asyncio.sleep(0.05)
    except asyncio.CancelledError:
        if then == "heeds it":
            raise
        await asyncio.sleep(0.3)
    if then == "fails":
        raise PermanentError("not so")
    if then == "fails for now":
        raise TransientError("not yet")
    if then == "snoozes":
        raise Snooze(0.1)


@job(queue="default", retry=RetryPolicy(attempts=4, base=0.1, cap=0.2), no_key_because="it only reports")
async def cancelled_part(part: Part) -> str:
    """Report, and work if it is a first one."""
    await tell(f"{part.plan.label} begin", part=part.name)
    if part.plan.fails and part.name == "first":
        await asyncio.sleep(0.5)
        raise PermanentError("the first part fails")
    try:
        if part.name.startswith("first"):
            await work(part.plan.label, part.plan.then)
    finally:
        await tell(f"{part.plan.label} end", part=part.name)
    return part.name


@job(queue="default", retry=RetryPolicy(attempts=4, base=0.1, cap=0.2), no_key_because="it only reports")
async def part_undone(part: Part) -> None:
    """Report."""
    await tell(f"{part.plan.label} undo", part=part.name)


@workflow.defn(name="cancelled_child")
class CancelledChild(JobWorkflow):
    """A part, and a later one."""

    @workflow.run
    async def run(self, plan: Plan) -> None:
        async with self.saga() as saga:
            saga.undo(part_undone, Part(plan=plan, name="first"))
            await self.step(cancelled_part, Part(plan=plan, name="first"))
            await self.step(cancelled_part, Part(plan=plan, name="later"))


cancelled_child = workflow_job(CancelledChild.run, queue="default")


@workflow.defn(name="cancelled")
class Cancelled(JobWorkflow):
    """Each construct by its name."""

    @workflow.run
    async def run(self, plan: Plan) -> None:
        await getattr(self, plan.shape)(plan)

    def first(self, plan: Plan, name: str = "first") -> Awaitable[object]:
        return self.step(cancelled_part, Part(plan=plan, name=name))

    async def later(self, plan: Plan) -> None:
        await self.step(cancelled_part, Part(plan=plan, name="later"))

    async def steps(self, plan: Plan) -> None:
        async with self.saga() as saga:
            saga.undo(part_undone, Part(plan=plan, name="first"))
            await self.first(plan)
            await self.later(plan)

    async def attempts(self, plan: Plan) -> None:
        async with self.saga() as saga:
            saga.undo(part_undone, Part(plan=plan, name="first"))
            for name in ("first", "later"):
                await self.attempt(cancelled_part, Part(plan=plan, name=name))

    async def swallowed(self, plan: Plan) -> None:
        async with self.saga() as saga:
            saga.undo(part_undone, Part(plan=plan, name="first"))
            with suppress(Exception):
                await self.first(plan)
            await self.later(plan)

    async def gathered(self, plan: Plan) -> None:
        gate = asyncio.Semaphore(2)

        async def part(name: str) -> None:
            async with gate:
                await self.first(plan, name)
                await self.later(plan)

        async with self.saga() as saga:
            for name in ("first 1", "first 2"):
                saga.undo(part_undone, Part(plan=plan, name=name))
            await asyncio.gather(*map(part, ("first 1", "first 2", "later")))

    async def in_tasks(self, plan: Plan) -> None:
        async def part() -> None:
            await self.first(plan)
            await self.later(plan)

        async with self.saga() as saga:
            saga.undo(part_undone, Part(plan=plan, name="first"))
            await workflow.wait([asyncio.create_task(part())])
            await self.later(plan)

    async def nested(self, plan: Plan) -> None:
        async with self.saga() as outer:
            outer.undo(part_undone, Part(plan=plan, name="zeroth"))
            await self.step(cancelled_part, Part(plan=plan, name="zeroth"))
            async with self.saga() as inner:
                inner.undo(part_undone, Part(plan=plan, name="first"))
                await self.first(plan)
                await self.later(plan)
            await self.later(plan)

    async def child(self, plan: Plan) -> None:
        async with self.saga():
            await self.step(cancelled_child, plan)
            await self.later(plan)

    async def plain_child(self, plan: Plan) -> None:
        async with self.saga():
            await workflow.execute_child_workflow(CancelledChild.run, plan)
            await self.later(plan)

    async def plain_activity(self, plan: Plan) -> None:
        async with self.saga() as saga:
            saga.undo(part_undone, Part(plan=plan, name="first"))
            part = Part(plan=plan, name="first")
            await workflow.execute_activity("cancelled_part", part, start_to_close_timeout=timedelta(seconds=60))
            await self.later(plan)


cancelled = workflow_job(Cancelled.run, queue="default")


@workflow.defn(name="part_fails")
class PartFails(JobWorkflow):
    """The first part parks while another one runs; discarded, it ends the block."""

    @workflow.run
    async def run(self, plan: Plan) -> None:
        async def part(name: str) -> None:
            await self.step(cancelled_part, Part(plan=plan, name=name))
            await self.step(cancelled_part, Part(plan=plan, name="later"))

        async with self.saga() as saga:
            for name in ("first", "first 2"):
                saga.undo(part_undone, Part(plan=plan, name=name))
            await asyncio.gather(part("first"), part("first 2"))


part_fails = workflow_job(PartFails.run, queue="default")
