"""Wait without spending a try or a slot: for a lock, for the next poll, for a rate limit.

A job that retries while it waits burns its attempts; one that sleeps holds a slot. Here the server waits: by a timer,
by `Snooze`, or by `@job(per_second=…)`, the server's own limit on a task queue.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from temporalio import workflow
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.workflow import ChildWorkflowCancellationType, ParentClosePolicy

INTERNAL_QUEUE = "internal"  # of workflows that are no jobs
SOONEST, LATEST = 0.1, 15.0  # seconds between two tries to get a lock


@workflow.defn(name="lock", sandboxed=False)
class Lock:
    """Is held as long as it runs: the server never lets two workflows of one id run."""

    @workflow.run
    async def run(self) -> None:
        """Until it is cancelled, by its holder or because that has ended."""
        with suppress(asyncio.CancelledError):  # released as it should be: shown as completed
            await workflow.wait_condition(lambda: False)


@asynccontextmanager
async def lock(name: str, *, wait: bool = True) -> AsyncGenerator[bool]:
    """In a workflow: hold `name` for the block. With `wait=False` the block runs at once, told whether it has it.

    It needs no time limit: whatever ends the workflow that holds it, the server ends the lock with it.
    """
    held, pause = None, SOONEST
    while held is None:
        try:
            held = await workflow.start_child_workflow(
                Lock.run,
                id=f"lock:{name}",
                task_queue=INTERNAL_QUEUE,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                parent_close_policy=ParentClosePolicy.REQUEST_CANCEL,
                cancellation_type=ChildWorkflowCancellationType.TRY_CANCEL,
            )
        except WorkflowAlreadyStartedError:
            if not wait:
                break
            await workflow.sleep(pause)
            pause = min(2 * pause, LATEST)
    try:
        yield held is not None
    finally:
        if held:
            held.cancel()


@dataclass(frozen=True, slots=True)
class AdaptivePoll:
    """Ask every `base` seconds after activity, doubling up to `cap` while idle; in a workflow with a timer.

    A poll that submits its successor forks into two loops when it is redelivered. This is one workflow.
    """

    base: float = 30.0
    cap: float = 300.0

    def next(self, last: float, *, active: bool) -> float:
        """Seconds until the next poll, after one of `last` seconds (0: there was none)."""
        return self.base if active or not last else min(self.cap, 2 * last)
