"""ARQ's record.lua and what sends its steps: submission.py, ops/worker.py, ops/leases.py."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .world import SINGLETONS, JobWorld, Planned, Run, Worker, constants

SOURCE = Path(__file__).parents[2] / "template/{{if_arq}}/runtime/record.lua"
QUEUE = "default"


def script(text: str | None = None) -> str:
    """What record.py sends."""
    text = text or SOURCE.read_text(encoding="utf-8")
    return constants(text) + text


@dataclass
class ArqWorld(JobWorld):
    """Redis has everything: queue, record, lease."""

    script: str = field(default_factory=script)

    def step(self, *arguments: Any) -> Any:
        return self.lua.run(self.server, self.script, [], list(arguments))

    def _moves_of(self, worker: Worker) -> Iterator[str]:
        yield from super()._moves_of(worker)
        if worker.alive and worker.run and worker.run.action == "run":
            yield f"{worker.name} hands back"
        if worker.alive and worker.run is None and self.rare.lost_answers:
            yield f"{worker.name} takes, answer lost"

    def send(self, job: Planned) -> None:
        fields = ["name", job.name, "queue", QUEUE, "priority", "5", "singleton", SINGLETONS[job.name]]
        if job.key:
            fields += ["key", job.key, "fingerprint", "fp"]
        holder = job.id
        if job.late:
            self.step("sequence", json.dumps([{"id": job.id, "message": "{}", "fields": fields}]))
        else:
            holder, *_ = self.step("submit", job.id, job.name, job.key, "fp", 0, 0, "{}", *fields)
        self.created |= {holder}

    def cancel(self, job: str) -> str | None:
        return self.step("cancel", job)

    def take(self, worker: Worker) -> Worker:
        if worker.unsure:
            before = self.attempts()
            self.step("disown", worker.owner, "[]", QUEUE)
            self.unspent += before - self.attempts()
        [taken, _] = self.step("take", worker.owner, 1, json.dumps(SINGLETONS), QUEUE)
        worker = replace(worker, unsure=False)
        for action, job, _, _, _, _, known, detail in taken:
            worker = replace(worker, run=Run(action, job, known[1], str(detail)))
        return worker

    def _takes_answer_lost(self, worker: Worker) -> Worker:
        self.rare.lost_answers -= 1
        return replace(self.take(worker), unsure=True, run=None)

    def _hands_back(self, worker: Worker) -> Worker:
        return self.end(worker, "queued", "handed_back")

    def end(self, worker: Worker, state: str, outcome: str, delay: float = 0.0) -> Worker:
        run = worker.run
        assert run
        letter, result = "{}" if state == "failed" else "", "{}" if outcome == state else ""
        before = self.state(run.id)
        what = (state, outcome, result, run.name, QUEUE, int(delay * 1000), letter, "error", "")
        self.step("finish", run.id, worker.owner, *what)
        unspent = outcome in ("snoozed", "handed_back") and before == "running" and self.state(run.id) == state
        self.unspent += unspent
        return replace(worker, run=None)

    def renew(self, worker: Worker) -> None:
        run = worker.run
        assert run
        self.step("renew", worker.owner, worker.name, "{}", run.id, run.name, QUEUE)

    def release(self, worker: Worker) -> None:
        self.step("release", worker.owner, QUEUE)

    def lease_of(self, job: str) -> str | None:
        return self.server.values.get(f"arq:in-progress:{job}")

    def waits(self, job: str) -> bool:
        return job in self.server.values.get(f"arq:queue:{QUEUE}", {}) or "follows" in self.record(job)

    def is_leftover(self, key: str) -> bool:
        return key.startswith(("lock:", "arq:in-progress:", "arq:queue:", "arq:running:", "arq:job:"))

    def check_counters(self) -> None:
        assert self.total("enqueued") == len(self.created)
        assert self.total("started") == self.total("finished")
        assert self.attempts() == self.total("started") - self.unspent
