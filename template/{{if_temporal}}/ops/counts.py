"""The fleet's counters, from what the server says has started, parked and ended since this process began.

Counters in workers are lost with each of them and summed by nobody. Each job's workflow writes its runs into its memo
when it parks or ends, in the same step; whoever lists workflows has them. A restart of this process is a counter reset,
as Prometheus knows them; every process tells what it has seen itself.
"""

import asyncio
import time
from bisect import bisect_left
from collections import defaultdict
from typing import Any

from temporalio.client import WorkflowExecution, WorkflowExecutionStatus

from ..contract import DURATION_BUCKETS, WAIT_BUCKETS
from ..runtime.connection import client
from ..runtime.job import jobs
from .backlog import ON_QUEUES, count, moment
from .status import read

OVERLAP = 10.0  # seconds that each look goes back: what has happened is listed a little later
CONTINUED = 1.0  # seconds between the end of a run and the start of the one that continues it, at most


class Counters:
    """Counts each start, each parking and each end once."""

    def __init__(self) -> None:
        self.began = self.newest = time.time()
        self.values: defaultdict[str, float] = defaultdict(float)
        self._seen: dict[tuple[Any, ...], float] = {}
        self._one_at_a_time = asyncio.Lock()

    async def look(self) -> dict[str, float]:
        """The counters as they are now."""
        async with self._one_at_a_time:
            after = max(self.began, self.newest - OVERLAP)
            since = " OR ".join(f"{when} >= {moment(after)}" for when in ("StartTime", "CloseTime", "JobParkedAt"))
            wanted = f"{ON_QUEUES} AND ({since})"
            if await count(wanted):  # which makes JobParkedAt known
                server = await client()
                listed = [found async for found in server.list_workflows(wanted, page_size=1_000)]
                await self._take(listed, max(self.began, after - OVERLAP))
            self._seen = {what: at for what, at in self._seen.items() if at >= self.newest - 3 * OVERLAP}
            return dict(self.values)

    async def _take(self, listed: list[WorkflowExecution], after: float) -> None:
        ended = WorkflowExecutionStatus.CONTINUED_AS_NEW
        continued = {found.id: _at(found.close_time) for found in listed if found.status == ended}
        for found in listed:
            if found.workflow_type not in jobs():
                continue  # anybody may start any name, and none of them becomes a metric's label
            started, closed = _at(found.start_time), _at(found.close_time)
            if started >= self.began and self._new(("start", found.run_id), started):
                goes_on = abs(continued.get(found.id, 0.0) - started) < CONTINUED
                self._add(found, "enqueued", 0 if goes_on else 1)
            await self._runs(found, closed, after)

    async def _runs(self, found: WorkflowExecution, closed: float, after: float) -> None:
        """Those that its memo tells of, if it has parked or ended since the last look."""
        if ("end", found.run_id) in self._seen or found.status == WorkflowExecutionStatus.CONTINUED_AS_NEW:
            return
        memo = await read(found)
        for outcome in (*memo.before, memo.outcome):
            parked_or_ended, generation = outcome.get("finished_at") or 0.0, outcome.get("generation", 1)
            if parked_or_ended < after or not self._new(("runs", found.run_id, generation), parked_or_ended):
                continue
            if outcome is memo.outcome and closed and memo.state:
                continue  # it ended while it was parked: told then
            self._add(found, "enqueued", 1 if generation > 1 else 0)
            for run in outcome.get("runs", ()):
                self._run(found, *run)
        if closed:
            self._new(("end", found.run_id), closed)

    def _new(self, what: tuple[Any, ...], at: float) -> bool:
        fresh = what not in self._seen
        self._seen[what] = at
        self.newest = max(self.newest, at)
        return fresh

    def _run(self, found: WorkflowExecution, outcome: str, waited: float, took: float) -> None:
        self._add(found, "started", 1)
        self._add(found, "finished", 1, outcome)
        self._observe(found, "wait", waited, WAIT_BUCKETS)
        if outcome != "lost":  # nobody knows how long that one took
            self._observe(found, "duration", took, DURATION_BUCKETS)

    def _observe(self, found: WorkflowExecution, what: str, value: float, buckets: tuple[float, ...]) -> None:
        self._add(found, what, 1, str(bisect_left(buckets, value) + 1))
        self._add(found, what, max(0.0, value), "sum")

    def _add(self, found: WorkflowExecution, what: str, value: float, more: str = "") -> None:
        if value:
            self.values[f"{what}|{found.workflow_type}|{found.task_queue}|{more}"] += value


def _at(moment: Any) -> float:
    return moment.timestamp() if moment else 0.0
