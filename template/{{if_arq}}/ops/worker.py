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
from . import native
from .execution import Execution, Taken
from .leases import LeaseKeeper
from .limits import keep_limits
from .supervisor import supervise
from .wakeups import listen

log = structlog.get_logger(__name__)
IDLE = 1.0  # seconds after which an idle worker looks by itself, should a wake-up have been lost
SUSPECTS_AGAIN = 2.0  # seconds until a job that may kill its worker is taken again, perhaps by an idle worker
LAST_WORDS = 2.0  # seconds that a job has when it is stopped


def run_worker(queues: list[str] | None = None) -> None:
    """Work on these queues (default: all), most urgent first, until SIGTERM; raises UnknownQueue, NotConfigured."""
    settings().require_redis_url()
    names = [known_queue(name) for name in queues] if queues else [queue.name for queue in QUEUES]
    chosen = [queue for queue in QUEUES if queue.name in names]
    logs.configure()
    pid = os.getpid()
    from ..worker import WorkerSettings  # not before it is needed: it needs this module

    options = native.options(WorkerSettings)

    def work(owner: str) -> None:
        QueueWorker(**options, queues=chosen, pid=pid, owner=owner).run()

    supervise(work, [queue.name for queue in chosen])


def check() -> Iterator[tuple[str, str, str]]:
    """For `doctor`: what keeps a worker from starting, as (where, problem, how to mend it)."""
    if not jobs():
        yield "jobs/", "declares no job, and arq refuses to start without", "declare one with @job"
    yield from native.check()


class QueueWorker(Worker):
    """arq's worker with another loop: several queues in one process, 9 before 0.

    What stays arq's: hooks, signals, `--burst`, `--check`, `ctx`, the formats of messages and results. An option that
    would have no effect raises JobDeclarationError (native.py).
    """

    def __init__(
        self,
        functions: Sequence[Function],
        *,
        queues: Sequence[Queue] = QUEUES,
        pid: int | None = None,
        owner: str | None = None,
        **options: Any,
    ) -> None:
        logs.configure()
        native.require({"functions": functions, **options})
        options.setdefault("health_check_interval", 10)
        self.queues = [queue.name for queue in queues]
        label = settings().worker_name or "-".join([*self.queues, str(pid or os.getpid())])
        self.name = f"{label}@{os.uname().nodename}"
        super().__init__(
            functions,
            queue_name=queue_key(self.queues[0]),
            redis_pool=connect(),
            **options,
            job_completion_wait=math.ceil(settings().drain),
            max_jobs=max(queue.concurrency for queue in queues),
            poll_delay=0,  # the loop waits by itself
        )
        adopt(self.loop, self.pool)
        self.jobs = jobs()
        hooks = {name: getattr(self, name) for name in ("on_job_start", "on_job_end", "after_job_end")}
        self.execution = Execution(self.jobs, self.ctx, owner or self.name, self.wake, hooks)
        self.known = json.dumps({job.name: job.singleton or "" for job in self.jobs.values()})
        self.running: dict[str, Taken] = {}
        self.started: set[str] = set()  # those, and what was given up but has not returned
        self.suspect: Taken | None = None  # a job that killed its worker twice, or ran beside one that did
        self.alone: Taken | None = None  # the same, for as long as others are left out
        self.asked = 0  # jobs that are being taken now
        self.unsure = False  # whether Redis may have handed out jobs in an answer that got lost
        self.more = False  # whether there were as many as asked for
        self.empty = False  # whether nothing is in the queues, delayed and running jobs included
        self.look, self.ahead = asyncio.Event(), asyncio.Event()
        self.ticked_at = math.inf  # when the event loop was last seen to turn

    def run(self) -> None:
        """Until SIGTERM or, with `burst`, until all is done. SystemExit in a task that a job started reaches the loop;
        that task has it as its error, so nothing but the loop must start again."""
        self.main_task = self.loop.create_task(self.main())
        try:
            while not self.main_task.done():
                try:
                    self.loop.run_until_complete(self.main_task)
                except (SystemExit, KeyboardInterrupt, RuntimeError) as error:  # RuntimeError: by `loop.stop()`
                    if self.main_task.done():
                        raise
                    log.warning("a task or callback of a job would have ended the worker", error=repr(error))
        except asyncio.CancelledError:  # by SIGTERM, after the drain
            pass
        finally:
            self.loop.run_until_complete(self.close())

    async def main(self) -> None:
        """Work until `main_task` is cancelled; wait for Redis first, as long as it takes."""
        await patiently(self.pool.ping)
        LeaseKeeper(self).start()
        beside = [self.loop.create_task(task) for task in (listen(self), keep_limits(self), self._take_ahead())]
        self.ctx["redis"] = self.pool
        try:
            if self.on_startup:
                await self.on_startup(self.ctx)
            while not (self.burst and self.empty):
                await self._take_when(self.look)
        finally:
            for task in beside:
                task.cancel()

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
            if self.unsure and self.asked == free:
                ids = json.dumps([*self.started])
                await records().step("disown", self.execution.owner, ids, *self.queues, once=True)
                self.unsure = False
            replies, due = await records().step("take", self.execution.owner, free, self.known, *self.queues, once=True)
            self.more, self.empty = len(replies) == free, due < 0 and not replies
            for taken in map(Taken.of, replies):
                if self.suspect and taken.detail == "alone":  # if that one kills the worker, this one must not be there
                    await self.execution.hand_back(taken, delay=SUSPECTS_AGAIN)
                elif self.alone:  # it came meanwhile
                    await self.execution.hand_back(taken)
                else:
                    self._start(taken)
        except UNAVAILABLE:
            self.unsure = True
            raise
        finally:
            self.asked -= free
        return 0.0 if replies else IDLE if due < 0 else min(IDLE, due / 1000)

    def _start(self, taken: Taken) -> None:
        if taken.detail == "alone":
            self.suspect = self.alone = taken
        task = self.loop.create_task(self._run(taken, [*self.tasks.values()] if self.alone else []))
        self.running[taken.id], self.tasks[taken.id] = taken, task
        self.started.add(taken.id)
        task.add_done_callback(partial(self._done, taken))

    async def _run(self, taken: Taken, beside: Sequence["asyncio.Task[Any]"]) -> None:
        """A suspect waits for what runs `beside` it; whatever is left after a lease is in its first or second death.

        Other jobs are left out for at most a lease before it begins and one after: if they waited for its end, or for
        that of a long job beside it, the worker would stand still.
        """
        try:
            if beside:
                taken.waits = True
                await asyncio.wait(beside, timeout=settings().lease)
                taken.waits = False
        except asyncio.CancelledError:
            return await self.execution.hand_back(taken)
        if self.alone is taken:
            self.loop.call_later(settings().lease, self._let_others_in, taken)
        taken.began = time.monotonic()
        return await self.execution.run(taken)

    def _let_others_in(self, taken: Taken) -> None:
        if self.alone is taken:
            self.alone = None
            self.wake()

    def forget(self, taken: Taken) -> None:
        """It runs no more, or nobody waits for it: its slot is free."""
        if self.running.get(taken.id) is taken:
            del self.running[taken.id], self.tasks[taken.id]
        if self.suspect is taken:
            self.suspect = self.alone = None
            self.wake()
        elif not taken.ending:  # otherwise its slot has been free since then
            self.wake()

    def _done(self, taken: Taken, task: "asyncio.Task[Any]") -> None:
        self.started.discard(taken.id)
        self.forget(taken)
        if not task.cancelled() and (error := task.exception()):
            about = {"job_id": taken.id, "job": taken.name, "attempt": taken.attempt, "queue": taken.queue}
            log.error("the end of a job was not written down: it runs again", **about, exc_info=error)

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
        deaf = [taken for taken in self.running.values() if not taken.ending]
        with suppress(TimeoutError):  # without Redis the leases end by themselves
            async with asyncio.timeout(LAST_WORDS):
                await asyncio.gather(*(self.execution.hand_back(taken) for taken in deaf))
        if self.main_task:
            self.main_task.cancel()

    async def close(self) -> None:
        """Leave: nobody waits for a job that does not stop."""
        with suppress(*UNAVAILABLE):
            await self.pool.hdel("workers", self.name)
        health.leave(self.name)
        if self.on_shutdown:
            await self.on_shutdown(self.ctx)
        with suppress(*UNAVAILABLE):
            await self.pool.aclose(close_connection_pool=True)
