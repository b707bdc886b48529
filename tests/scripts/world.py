"""Senders, workers and an operator around the steps of a job's record, as far as they are the same on each stack.

Each may die between any two steps or lose an answer; what must hold is looked at from outside, in Redis.
"""

import re
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from .server import Lua, Server

LEASE, RENEWAL, MAX_DELIVERIES = 24.0, 8.0, 3
CONSTANTS = {
    "LEASE": int(LEASE * 1000), "RENEWAL": RENEWAL, "RECORD_TTL": 86_400, "RESULT_TTL": 3_600, "KEY_TTL": 7_200,
    "MAX_DELIVERIES": MAX_DELIVERIES, "RESERVED": 30, "WAIT_BUCKETS": "{0.1,1,10}", "DURATION_BUCKETS": "{0.1,1,10}",
}  # fmt: skip
SINGLETONS = {"ship": "", "alone": "wait", "only": "skip"}
FINAL = ("succeeded", "failed", "cancelled")
PAUSE = 2.0  # seconds between two looks of a worker when all come to rest


def constants(script: str) -> str:
    """The lines that give a script its settings' values."""
    return "".join(
        f"local {name} = {value}\n" for name, value in CONSTANTS.items() if re.search(rf"\b{name}\b", script)
    )


@dataclass(frozen=True)
class Planned:
    """A job that a sender submits."""

    id: str
    name: str = "ship"
    key: str = ""
    late: bool = False  # a step of a workflow: its key is claimed when it starts


@dataclass(frozen=True)
class Run:
    """A job that a worker has in hand, and what the step `start` said of it."""

    action: str
    id: str
    name: str
    detail: str = ""
    began: bool = False
    until: int = 0  # the µs at which its lease ends, unless it is renewed
    message: Any = None


@dataclass(frozen=True)
class Worker:
    """A worker process; a new one after its death is another owner."""

    name: str
    life: int = 1
    alive: bool = True
    unsure: bool = False
    run: Run | None = None

    @property
    def owner(self) -> str:
        return f"{self.name}.{self.life}:"


@dataclass
class Rare:
    """How often in one order what is rare may happen."""

    deaths: int = 2
    lost_answers: int = 1
    pauses: int = 5
    ends: int = 1  # other than success
    cancels: int = 1
    redeliveries: int = 1  # of a message whose worker lives: its connection broke


@dataclass
class JobWorld:
    """The server, who acts on it, and what was seen from outside."""

    lua: Lua
    plan: tuple[Planned, ...]
    server: Server = field(default_factory=Server)
    workers: tuple[Worker, ...] = (Worker("w1"), Worker("w2"))
    rare: Rare = field(default_factory=Rare)
    sent: frozenset[str] = frozenset()
    created: frozenset[str] = frozenset()  # sent, and the answer did not name another job with the key
    effects: tuple[str, ...] = ()
    ends: dict[str, str] = field(default_factory=dict)
    barred: frozenset[str] = frozenset()  # whose cancel was accepted: no run begins any more
    skipped: frozenset[str] = frozenset()  # another one of its name ran
    unspent: int = 0  # runs that cost no attempt

    def copy(self) -> Self:
        other = copy(self)
        other.server, other.rare, other.ends = self.server.copy(), copy(self.rare), dict(self.ends)
        return other

    def key(self) -> object:
        rare = tuple(vars(self.rare).values())
        seen = (self.workers, self.sent, self.effects, self.barred, self.unspent)
        return hash((self.server.state(), self.server.now, seen, rare))

    def record(self, job: str) -> dict[str, str]:
        return self.server.values.get(f"job:{job}", {})

    def state(self, job: str) -> str | None:
        return self.record(job).get("state")

    def attempts(self) -> int:
        return sum(int(self.record(job.id).get("attempts", 0)) for job in self.plan)

    # what may happen
    def moves(self) -> list[str]:
        return [
            *self._moves_of_senders(),
            *(move for worker in self.workers for move in self._moves_of(worker)),
            *self._others(),
        ]

    def _moves_of_senders(self) -> Iterator[str]:
        for job in self.plan:
            if job.id not in self.sent:
                yield f"send {job.id}"

    def _moves_of(self, worker: Worker) -> Iterator[str]:
        if not worker.alive:
            yield f"{worker.name} starts"
            return
        if worker.run is None:
            yield f"{worker.name} takes"
            if self.rare.pauses:
                yield f"{worker.name} takes what comes within a minute"
        elif worker.run.action == "run" and not worker.run.began:
            yield f"{worker.name} works"
        else:
            yield f"{worker.name} ends"
            if self.rare.lost_answers:
                yield f"{worker.name} ends, answer lost"
            if worker.run.action == "run" and self.rare.ends:
                yield from (f"{worker.name} {end}" for end in ("retries", "snoozes", "fails"))
        if worker.run:
            yield f"{worker.name} renews"
        if self.rare.deaths:
            yield f"{worker.name} dies"
            yield f"{worker.name} is killed and released"

    def _others(self) -> Iterator[str]:
        if self.rare.pauses:
            yield "time passes"
            yield "a lease passes"
        if self.rare.cancels:
            yield from (f"cancel {job}" for job in sorted(self.created))

    def move(self, name: str) -> None:
        who, _, what = name.partition(" ")
        if who == "send":
            self.sent |= {what}
            self.send(next(job for job in self.plan if job.id == what))
        elif who == "cancel":
            self.rare.cancels -= 1
            if (was := self.cancel(what)) and was not in FINAL:
                self.barred |= {what}
        elif what == "passes":
            self.rare.pauses -= 1
            self.pass_time(RENEWAL)
        elif what == "lease passes":
            self.rare.pauses -= 1
            self.pass_time(LEASE + 1)
        else:
            self._work(who, what)
        self.check()

    def _work(self, name: str, what: str) -> None:
        method = getattr(self, "_" + re.sub(r"\W+", "_", what))
        self.workers = tuple(method(worker) if worker.name == name else worker for worker in self.workers)

    def pass_time(self, seconds: float) -> None:
        self.server.advance(seconds)

    def _starts(self, worker: Worker) -> Worker:
        return replace(worker, alive=True, life=worker.life + 1)

    def _dies(self, worker: Worker) -> Worker:
        self.rare.deaths -= 1
        return replace(worker, alive=False, run=None, unsure=False)

    def _is_killed_and_released(self, worker: Worker) -> Worker:
        self.release(worker)
        return self._dies(worker)

    def _takes(self, worker: Worker) -> Worker:
        holders = {job.id: self.lease_of(job.id) for job in self.plan}
        worker = self._kept(self.take(worker))
        if (run := worker.run) and run.action == "run":
            assert holders[run.id] in (None, worker.owner), (
                f"{worker.owner} takes {run.id}, which {holders[run.id]} holds"
            )
            assert run.id not in self.barred, f"{run.id} runs, though it was cancelled before"
        return worker

    def _takes_what_comes_within_a_minute(self, worker: Worker) -> Worker:
        self.rare.pauses -= 1
        for _ in range(int(60 / PAUSE)):
            self.pass_time(PAUSE)
            if (worker := self._takes(worker)).run:
                break
        return worker

    def _kept(self, worker: Worker) -> Worker:
        """With the end of its lease, if it has one."""
        if (run := worker.run) and run.action == "run" and self.lease_of(run.id) == worker.owner:
            return replace(worker, run=replace(run, until=self.server.now + int(LEASE * 1e6)))
        return worker

    def _works(self, worker: Worker) -> Worker:
        assert worker.run
        job = worker.run.id
        self.effects = (*self.effects, job)
        key = next(planned.key for planned in self.plan if planned.id == job)
        if key and self.lease_of(job) == worker.owner:  # a worker that stood still for a lease may be too late
            for other in self.plan:
                if other.key == key and other.id != job and other.id in self.effects:
                    state = self.state(other.id)
                    assert state in ("failed", "cancelled"), f"{job} repeats the effect of {other.id}, which is {state}"
        return replace(worker, run=replace(worker.run, began=True))

    def _ends(self, worker: Worker) -> Worker:
        assert worker.run
        action = worker.run.action
        if action in ("run", "duplicate"):
            return self.end(worker, "succeeded", "succeeded")
        if action in ("skipped", "expired", "cancelled"):
            self.skipped |= {worker.run.id} if action == "skipped" else set()
            return self.end(worker, "cancelled", action)
        return self.end(worker, "failed", "dead" if action == "poison" else "refused")

    def _ends_answer_lost(self, worker: Worker) -> Worker:
        self.rare.lost_answers -= 1
        self._ends(worker)
        return self._ends(worker)  # it is sent again

    def _retries(self, worker: Worker) -> Worker:
        self.rare.ends -= 1
        return self.end(worker, "retrying", "retried", delay=1.0)

    def _snoozes(self, worker: Worker) -> Worker:
        self.rare.ends -= 1
        return self.end(worker, "scheduled", "snoozed", delay=1.0)

    def _fails(self, worker: Worker) -> Worker:
        self.rare.ends -= 1
        return self.end(worker, "failed", "dead")

    def _renews(self, worker: Worker) -> Worker:
        self.renew(worker)
        return self._kept(worker)

    # what a stack says in its own words
    def send(self, job: Planned) -> None:
        raise NotImplementedError

    def cancel(self, job: str) -> str | None:
        raise NotImplementedError

    def take(self, worker: Worker) -> Worker:
        raise NotImplementedError

    def end(self, worker: Worker, state: str, outcome: str, delay: float = 0.0) -> Worker:
        raise NotImplementedError

    def renew(self, worker: Worker) -> None:
        raise NotImplementedError

    def release(self, worker: Worker) -> None:
        raise NotImplementedError

    def lease_of(self, job: str) -> str | None:
        raise NotImplementedError

    def waits(self, job: str) -> bool:
        """Whether something will bring it to a worker: a place in a queue, or a message."""
        raise NotImplementedError

    # what must hold
    def check(self) -> None:
        """At any time: an end is one, nothing that was submitted is forgotten, a lease has its run, a key one run."""
        for job in self.plan:
            state = self.state(job.id)
            if (before := self.ends.get(job.id)) is not None:
                assert state == before, f"{job.id} had ended {before}, and is {state}"
            elif state in FINAL and job.id in self.created:
                asked = job.id in self.barred or job.id in self.skipped
                assert state != "cancelled" or asked, f"{job.id} was submitted and is cancelled; nobody asked for that"
                self.ends[job.id] = state
            elif job.id in self.created:
                assert self.waits(job.id), f"{job.id} was submitted, is {state}, and waits nowhere"
            owner = self.lease_of(job.id)
            for worker in self.workers:
                run = worker.run
                if worker.alive and worker.owner == owner and not worker.unsure:
                    assert run is not None, f"{owner} has the lease of {job.id}, and runs nothing"
                    assert run.id == job.id, f"{owner} has the lease of {job.id}, which it does not run"
                    assert run.action != "run" or state in ("running", *FINAL), f"{job.id} runs, and is {state}"
                leased = run and run.id == job.id and run.action == "run" and self.server.now < run.until
                if leased and state not in FINAL:
                    assert owner == worker.owner, f"{worker.owner} has {job.id} no more, but {owner}, before its time"
        for key in {job.key for job in self.plan} - {""}:
            running = [
                job.id
                for job in self.plan
                if job.key == key and self.state(job.id) == "running" and self.lease_of(job.id)
            ]
            assert len(running) < 2, f"{running} run at once under one key"

    def settle(self) -> None:
        """All workers go on without a fault while time passes: then everything has ended, and nothing is left."""
        self.rare = Rare(*[0] * len(fields(Rare)))
        for _ in range(120):
            for worker in self.workers:
                self.move(next(self._moves_of(worker)))
            if self.at_rest():
                break
            self.pass_time(PAUSE)
        self.check_rest()

    def at_rest(self) -> bool:
        return all(self.ends.get(job) for job in self.created) and not any(worker.run for worker in self.workers)

    def total(self, what: str, *, outcome: str = "") -> int:
        """What the counters say of all jobs together."""
        metrics = self.server.values.get("metrics", {})
        return sum(int(n) for name, n in metrics.items() if name.startswith(f"{what}|") and name.endswith(outcome))

    def check_rest(self) -> None:
        """At rest: every job has ended, nothing is left without its owner, the counters equal the ends."""
        values, expires = self.server.values, self.server.expires
        for job in self.created:
            assert self.state(job) in FINAL, f"{job} never ends: {self.record(job)}"
            assert f"job:{job}" in expires, f"the record of {job} is kept for ever"
        for key in values:
            assert not self.is_leftover(key), f"{key} is left: {values[key]}"
            assert not key.startswith("key:") or key in expires, f"{key} is held for ever, by {values[key]}"
        failed = {job.id for job in self.plan if self.state(job.id) == "failed"}
        letters = {key[5:] for key in values if key.startswith("dead:") and key != "dead:queues"}
        assert set(values.get("dead", {})) == failed == letters, f"failed: {failed}, dead letters: {letters}"
        for key in {job.key for job in self.plan} - {""}:
            done = {job.id for job in self.plan if job.key == key and self.state(job.id) == "succeeded"}
            holder = values.get(f"key:ship:{key}", "").partition("|")[0]
            assert not done or holder in done, f"key {key} is held by {holder!r}; {done} succeeded"
        self.check_counters()

    def is_leftover(self, key: str) -> bool:
        """Whether nothing of this kind is there once all jobs have ended."""
        raise NotImplementedError

    def check_counters(self) -> None:
        raise NotImplementedError
