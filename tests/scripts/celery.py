"""Celery's record.lua and what sends its steps: submission.py, task.py, ops/leases.py; the broker is a bag of messages.

A message comes back once nobody has renewed its delivery for a lease: its worker is dead, or stood still.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from .world import LEASE, SINGLETONS, JobWorld, Planned, Run, Worker, constants

RUNTIME = Path(__file__).parents[2] / "template/{{if_celery}}/runtime"
QUEUE = "default"


@cache
def scripts(text: str | None = None) -> dict[str, str]:
    """What record.py sends, by step."""
    text = text or (RUNTIME / "record.lua").read_text(encoding="utf-8")
    shared, found = text.partition("\nfunction steps.")[0], {}
    for name, body in re.findall(r"^function steps\.(\w+)\(\)$(.*?)^end$", text, re.MULTILINE | re.DOTALL):
        script = f"{shared}\nlocal function step(){body}end\nreturn (step())"
        found[name] = constants(script) + script
    found["renew"] = (RUNTIME / "record.py").read_text(encoding="utf-8").split('RENEW = """')[1].split('"""')[0]
    return found


@dataclass(frozen=True)
class Message:
    """In the broker; `holder` has it since it was last `renewed`."""

    number: int
    job: str
    seq: int
    due: float
    holder: str = ""
    renewed: float = 0.0


@dataclass
class CeleryWorld(JobWorld):
    """The record is in Redis, the queue in the broker."""

    scripts: dict[str, str] = field(default_factory=scripts)
    messages: tuple[Message, ...] = ()
    numbered: int = 0
    sending: tuple[tuple[str, str, str], ...] = ()  # sender, what it does next, the job it sends
    confirmed: int = 0
    latest: tuple[tuple[str, int], ...] = ()  # of each job that ran: the number of its next message, at least

    def key(self) -> object:
        return hash((super().key(), self.messages, self.sending, self.confirmed, self.latest))

    @property
    def now(self) -> float:
        return self.server.now / 1e6

    def step(self, name: str, job: str, *arguments: Any) -> Any:
        return self.lua.run(self.server, self.scripts[name], [f"job:{job}"], list(arguments))

    def planned(self, job: str) -> Planned:
        return next(planned for planned in self.plan if planned.id == job)

    # senders
    def _moves_of_senders(self) -> Iterator[str]:
        yield from super()._moves_of_senders()
        for sender, then, *_ in self.sending:
            yield f"{then} {sender}"
            if then == "publish":
                yield f"fail {sender}"
                yield f"doubt {sender}"

    def move(self, name: str) -> None:
        what, _, sender = name.partition(" ")
        if what in ("publish", "fail", "doubt", "confirm"):
            [(_, _, job)] = [entry for entry in self.sending if entry[0] == sender]
            self.sending = tuple(entry for entry in self.sending if entry[0] != sender)
            getattr(self, f"_{what}")(sender, job)
            self.check()
        elif what == "broker":
            self._redeliver()
            self.check()
        else:
            super().move(name)

    def send(self, job: Planned) -> None:
        record = {"name": job.name, "state": "queued", "queue": QUEUE, "priority": 5, "submitted_at": self.now}
        record |= {"root": job.id, "trace_id": job.id, "sent": "[]"} | ({"key": job.key} if job.key else {})
        claimed = "" if job.late else job.key
        holder, _, stage = self.step("reserve", job.id, job.id, job.name, claimed, "fp", "0", json.dumps(record), "{}")
        if holder == job.id or stage != "sent":
            self.sending = (*self.sending, (job.id, "publish", holder))

    def _put(self, job: str, seq: int, due: float) -> None:
        self.numbered += 1
        self.messages = (*self.messages, Message(self.numbered, job, seq, due))

    def _publish(self, sender: str, job: str) -> None:
        self._put(job, 0, self.now)
        self.created |= {job}
        self.sending = (*self.sending, (sender, "confirm", job))

    def _confirm(self, sender: str, job: str) -> None:
        self.confirmed += 1
        planned = self.planned(job)
        self.step("confirm", job, planned.name, "" if planned.late else planned.key, QUEUE, 0)

    def _fail(self, sender: str, job: str) -> None:
        """The broker refuses the message."""
        self._withdraw(job)

    def _doubt(self, sender: str, job: str) -> None:
        """The broker has the message, and its sender does not hear it."""
        self._put(job, 0, self.now)
        self._withdraw(job)

    def _withdraw(self, job: str) -> None:
        planned = self.planned(job)
        if not self.step("withdraw", job, job, planned.name, "" if planned.late else planned.key, self.now):
            self.created |= {job}  # its sender gets its id: it runs already

    def _others(self) -> Iterator[str]:
        yield from super()._others()
        if self.rare.redeliveries and any(message.holder for message in self.messages):
            yield "broker redelivers"

    def _redeliver(self) -> None:
        self.rare.redeliveries -= 1
        self.messages = tuple(replace(message, holder="") for message in self.messages)

    def cancel(self, job: str) -> str | None:
        return self.step("cancel", job, job, self.now, "{}")

    # workers
    def take(self, worker: Worker) -> Worker:
        for message in self.messages:
            if message.due <= self.now and (not message.holder or self.now - message.renewed >= LEASE):
                self._hold(message, worker.owner)
                action, detail = self._start(message, worker)
                return replace(
                    worker, run=Run(action, message.job, self.planned(message.job).name, str(detail), message=message)
                )
        return worker

    def _hold(self, message: Message, owner: str) -> None:
        held = replace(message, holder=owner, renewed=self.now)
        self.messages = tuple(held if other.number == message.number else other for other in self.messages)

    def _start(self, message: Message, worker: Worker) -> tuple[str, Any]:
        job = self.planned(message.job)
        record = {"name": job.name, "submitted_at": self.now, "priority": 5, "root": job.id, "trace_id": job.id}
        what = (job.name, QUEUE, message.seq, job.key, "fp", SINGLETONS[job.name], message.due, json.dumps(record))
        action, detail = self.step("start", job.id, job.id, self.now, worker.owner, *what)
        if action == "run":
            expected = dict(self.latest).get(job.id, 0)
            assert message.seq >= expected, f"message {message.seq} of {job.id} runs, though {expected} is the next"
            self._expect(job.id, message.seq)
        return action, detail

    def _expect(self, job: str, seq: int) -> None:
        self.latest = tuple(sorted({**dict(self.latest), job: seq}.items()))

    def _moves_of(self, worker: Worker) -> Iterator[str]:
        if (
            worker.alive
            and worker.run
            and worker.run.action not in ("run", "cancelled", "duplicate", "skipped", "poison")
        ):
            yield f"{worker.name} ends"
            if self.rare.deaths:
                yield f"{worker.name} dies"
        else:
            yield from super()._moves_of(worker)

    def _ends(self, worker: Worker) -> Worker:
        run = worker.run
        assert run
        message: Message = run.message
        if run.action == "busy":
            self._put(run.id, message.seq, self.now + int(run.detail) / 1000)
        elif run.action == "retried":
            self._finish(worker, "retrying", "retried")
        elif run.action == "snoozed":
            self._finish(worker, "scheduled", "snoozed")
        elif run.action == "acknowledge":
            self.messages = tuple(other for other in self.messages if not self._is_delivery(other, message, worker))
            return replace(worker, run=None)
        elif run.action not in ("finished", "stale"):
            return super()._ends(worker)
        return replace(worker, run=replace(run, action="acknowledge"))

    def _is_delivery(self, other: Message, message: Message, worker: Worker) -> bool:
        """Whether it is this one, and has not gone to another worker meanwhile."""
        return other.number == message.number and other.holder == worker.owner

    def _retries(self, worker: Worker) -> Worker:
        return self._sends_again(worker, "retried")

    def _snoozes(self, worker: Worker) -> Worker:
        return self._sends_again(worker, "snoozed")

    def _sends_again(self, worker: Worker, action: str) -> Worker:
        assert worker.run
        self.rare.ends -= 1
        self._put(worker.run.id, worker.run.message.seq + 1, self.now + 1)
        return replace(worker, run=replace(worker.run, action=action))

    def end(self, worker: Worker, state: str, outcome: str, delay: float = 0.0) -> Worker:
        assert worker.run
        self._finish(worker, state, outcome)
        return replace(worker, run=replace(worker.run, action="acknowledge"))

    def _finish(self, worker: Worker, state: str, outcome: str) -> None:
        run = worker.run
        assert run
        before, seq = self.state(run.id), run.message.seq if state in ("retrying", "scheduled") else ""
        letter = "{}" if state == "failed" else ""
        what = (state, outcome, "{}", run.name, QUEUE, seq, self.planned(run.id).key, letter, "error", "")
        self.step("finish", run.id, run.id, self.now, worker.owner, *what)
        if seq != "" and before == "running" and self.state(run.id) == state:
            self._expect(run.id, seq + 1)
        self.unspent += outcome == "snoozed" and before == "running" and self.state(run.id) == state

    def _ends_answer_lost(self, worker: Worker) -> Worker:
        self.rare.lost_answers -= 1
        self._ends(worker)
        return self._ends(worker)

    def renew(self, worker: Worker) -> None:
        run = worker.run
        assert run
        self.messages = tuple(
            replace(message, renewed=self.now) if self._is_delivery(message, run.message, worker) else message
            for message in self.messages
        )
        lock = run.name if SINGLETONS[run.name] else ""
        self.step("renew", run.id, int(LEASE * 1000), run.id, worker.owner, lock)

    def release(self, worker: Worker) -> None:
        if run := worker.run:
            self.step("release", run.id, worker.owner)
            self.messages = tuple(
                replace(message, holder="") if self._is_delivery(message, run.message, worker) else message
                for message in self.messages
            )

    def lease_of(self, job: str) -> str | None:
        return self.server.values.get(f"job:{job}:lease")

    def waits(self, job: str) -> bool:
        return any(message.job == job for message in self.messages)

    def at_rest(self) -> bool:
        return super().at_rest() and not self.messages

    def is_leftover(self, key: str) -> bool:
        return key.startswith("lock:") or key.endswith(":lease")

    def check_counters(self) -> None:
        metrics = self.server.values.get("metrics", {})
        runs = {
            what: [name for name in metrics if name.startswith(f"{what}|") and "|us" not in name]
            for what in ("wait", "duration")
        }
        started, ended = (sum(int(metrics[name]) for name in names) for names in runs.values())
        assert started == ended + self.total("finished", outcome="|lost"), dict(metrics)
        assert self.total("enqueued") == self.confirmed, dict(metrics)
        assert self.attempts() == started - self.unspent, (self.attempts(), started, self.unspent)
