"""The worker process: queues in order, woken at once, leases on what it runs, an end that loses and doubles nothing.

arq's own loop looks twice a second, claims each job with four round trips, never sees what stands behind a hundred
running jobs, leaves a killed worker's jobs for as long as the longest may run, and ends when Redis restarts. This one
takes a batch in one step, the next one while this one runs, keeps leases of seconds, and waits for Redis.
"""

import asyncio
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from signal import Signals
from typing import Any

import structlog
from arq.worker import Function, Worker

from .. import health, logs
from ..queues import QUEUES, Queue
from ..runtime.connection import UNAVAILABLE, adopt, connect, patiently
from ..runtime.job import jobs
from ..runtime.record import queue_key, records
from ..runtime.routing import known_queue
from ..settings import settings
from .execution import Execution, Taken
from .leases import LeaseKeeper
from .limits import keep_limits
from .supervisor import supervise
from .wakeups import listen

log = structlog.get_logger(__name__)
IDLE = 1.0  # seconds after which an idle worker looks by itself, should a wake-up have been lost
LAST_WORDS = 2.0  # seconds that a job has when it is stopped


def run_worker(queues: list[str] | None = None) -> None:
    """Work on these queues (default: all), most urgent first, until SIGTERM; raises UnknownQueue, NotConfigured."""
    settings().require_redis_url()
    names = [known_queue(name) for name in queues] if queues else [queue.name for queue in QUEUES]
    chosen = [queue for queue in QUEUES if queue.name in names]
    logs.configure()
    pid = os.getpid()
    from ..worker import WorkerSettings  # not before it is needed: it needs this module

    def work(owner: str) -> None:
        QueueWorker(
            WorkerSettings.functions,
            queues=chosen,
            pid=pid,
            owner=owner,
            on_startup=WorkerSettings.on_startup,
            on_shutdown=WorkerSettings.on_shutdown,
            health_check_key=WorkerSettings.health_check_key,
        ).run()

    supervise(work, [queue.name for queue in chosen])


def check() -> Iterator[tuple[str, str, str]]:
    """For `doctor`: what keeps a worker from starting, as (where, problem, how to mend it)."""
    if not jobs():
        yield "jobs/", "declares no job, and arq refuses to start without", "declare one with @job"


class QueueWorker(Worker):
    """arq's worker with another loop: several queues in one process, 9 before 0.

    What stays arq's: hooks at start and end, signals, `--burst`, `--check`, `ctx`, the formats of messages and results.
    """

    def __init__(
        self,
        functions: Sequence[Function],
        *,
        queues: Sequence[Queue] = QUEUES,
        pid: int | None = None,
        owner: str | None = None,
        burst: bool = False,
        on_startup: Any = None,
        on_shutdown: Any = None,
        health_check_key: str | None = None,
        redis_settings: object = None,  # for `arq --check`; the worker's client is ours
    ) -> None:
        logs.configure()
        self.queues = [queue.name for queue in queues]
        label = settings().worker_name or "-".join([*self.queues, str(pid or os.getpid())])
        self.name = f"{label}@{os.uname().nodename}"
        super().__init__(
            functions,
            queue_name=queue_key(self.queues[0]),
            redis_pool=connect(),
            burst=burst,
            on_startup=on_startup,
            on_shutdown=on_shutdown,
            health_check_key=health_check_key,
            health_check_interval=10,
            job_completion_wait=math.ceil(settings().drain),
            max_jobs=max(queue.concurrency for queue in queues),
            poll_delay=0,  # the loop waits by itself
        )
        adopt(self.loop, self.pool)
        self.jobs = jobs()
        self.execution = Execution(self.jobs, self.ctx, owner or self.name, self.wake)
        self.known = json.dumps({job.name: job.singleton or "" for job in self.jobs.values()})
        self.running: dict[str, Taken] = {}
        self.alone: Taken | None = None
        self.asked = 0  # jobs that are being taken now
        self.more = False  # whether there were as many as asked for
        self.look, self.ahead = asyncio.Event(), asyncio.Event()
        self.ticked_at = math.inf  # when the event loop was last seen to turn

    async def main(self) -> None:
        """Work until `main_task` is cancelled; wait for Redis first, as long as it takes."""
        await patiently(self.pool.ping)
        LeaseKeeper(self).start()
        beside = [self.loop.create_task(task) for task in (listen(self), keep_limits(self), self._take_ahead())]
        try:
            await super().main()
        finally:
            for task in beside:
                task.cancel()

    async def _poll_iteration(self) -> None:
        """Called by arq again and again: start what is due, then wait for more, or for a free slot."""
        await self._take_when(self.look)

    async def _take_ahead(self) -> None:
        """The same once more while there is a backlog, so that Redis hands out jobs while others run, not in turn."""
        while not self.burst:
            await self._take_when(self.ahead)

    async def _take_when(self, woken: asyncio.Event) -> None:
        try:
            pause = IDLE if woken is self.ahead and not self.more else await self._take()
            self.jobs_complete, self.jobs_failed = self.execution.ended["succeeded"], self.execution.ended["failed"]
            await self.record_health()
        except Exception as error:  # whatever it is, running jobs go on, and the next look comes
            log.warning("jobs wait", error=repr(error), exc_info=not isinstance(error, UNAVAILABLE))
            await asyncio.sleep(1)
            return
        if self.burst and self.tasks:
            await asyncio.wait(self.tasks.values())
        elif pause:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await woken.wait()
        woken.clear()

    def wake(self) -> None:
        """Look for jobs: there are new ones, or a free slot."""
        self.look.set()
        self.ahead.set()

    def occupied(self) -> int:
        """Slots that jobs run in. One whose end is being written down needs none."""
        return sum(not taken.ending for taken in list(self.running.values()))

    async def _take(self) -> float:
        """Start what may start, half of all slots at most; answers in how many seconds to look again."""
        free = min(self.max_jobs - self.asked - self.occupied(), (self.max_jobs + 1) // 2)
        if not self.allow_pick_jobs or free < 1 or self.alone:
            return IDLE
        self.asked += free
        try:
            replies, due = await records().step("take", self.execution.owner, free, self.known, *self.queues)
            self.more = len(replies) == free
            for taken in map(Taken.of, replies):
                if self.alone:  # it came meanwhile
                    await self.execution.hand_back(taken)
                else:
                    self._start(taken)
        finally:
            self.asked -= free
        return 0.0 if replies else IDLE if due < 0 else min(IDLE, due / 1000)

    def _start(self, taken: Taken) -> None:
        if taken.detail == "alone":
            self.alone = taken
        task = self.loop.create_task(self._run(taken, [*self.tasks.values()] if self.alone else []))
        self.running[taken.id], self.tasks[taken.id] = taken, task
        task.add_done_callback(partial(self._done, taken))

    async def _run(self, taken: Taken, beside: Sequence["asyncio.Task[Any]"]) -> None:
        try:
            if beside:
                await asyncio.wait(beside)
        except asyncio.CancelledError:
            return await self.execution.hand_back(taken)
        taken.began = time.monotonic()
        return await self.execution.run(taken)

    def forget(self, taken: Taken) -> None:
        """It runs no more, or nobody waits for it: its slot is free."""
        if self.running.get(taken.id) is taken:
            del self.running[taken.id], self.tasks[taken.id]
        if self.alone is taken:
            self.alone = None
            self.wake()
        elif not taken.ending:  # otherwise its slot has been free since then
            self.wake()

    def _done(self, taken: Taken, task: "asyncio.Task[Any]") -> None:
        self.forget(taken)
        if not task.cancelled() and (error := task.exception()):
            log.error("the end of a job was not written down: it runs again", job_id=taken.id, exc_info=error)

    def interrupt(self, job_id: str, why: str) -> None:
        """Cancel a running job, unless it is ending already."""
        taken = self.running.get(job_id)
        if taken and not taken.ending:
            taken.stopped = why
            self.tasks[job_id].cancel()

    async def _wait_for_tasks_to_complete(self, signum: Signals) -> None:
        """Called by arq on SIGTERM, when no more jobs are taken: the drain; what runs on after it goes back."""
        while self.asked:  # at most for as long as Redis may take to answer
            await asyncio.sleep(0.01)
        if self.tasks:
            await asyncio.wait(self.tasks.values(), timeout=settings().drain)
        for job_id in list(self.running):
            self.interrupt(job_id, "draining")
        if self.tasks:
            await asyncio.wait(self.tasks.values(), timeout=LAST_WORDS)
        with suppress(TimeoutError):  # without Redis the leases end by themselves
            async with asyncio.timeout(LAST_WORDS):
                await asyncio.gather(*(self.execution.hand_back(taken) for taken in self.running.values()))
        if self.main_task:
            self.main_task.cancel()

    async def close(self) -> None:
        """Leave: nobody waits for a job that does not stop."""
        with suppress(*UNAVAILABLE):
            await self.pool.hdel("workers", self.name)
        health.heartbeat_file(self.name).unlink(missing_ok=True)
        if self.on_shutdown:
            await self.on_shutdown(self.ctx)
        with suppress(*UNAVAILABLE):
            await self.pool.aclose(close_connection_pool=True)
