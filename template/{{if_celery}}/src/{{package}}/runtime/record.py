"""The record of each job in Redis, changed by one atomic script per step.

A crash between two steps is the ordinary case: what was written decides whether a redelivered message runs, waits or is
dropped. So a job has one effect although the broker delivers it at least once, and state, result, dead letter and counters
never disagree. Keys: `job:<id>` (hash), `job:<id>:lease` (who runs it), `key:<job>:<key>` (idempotency), `lock:<job>`.
"""

import json
import time
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from redis import Redis

from ..contract import FINAL, JobStatus, Progress, State
from ..settings import settings
from . import metrics
from .connection import redis

RESERVED_FOR = 30  # seconds in which a sender must have sent its message

Fields = dict[str, str | int | float | None]


class Verdict(NamedTuple):
    """What start.lua decided: what to do, and the detail that goes with it (attempt, wait in ms, other job's id …)."""

    action: str
    detail: str = ""


def job_key(job_id: str) -> str:
    return f"job:{job_id}"


def result_key(job_id: str) -> str:
    """Where Celery's Redis backend keeps the result."""
    return f"celery-task-meta-{job_id}"


def claim_key(name: str, key: str | None) -> str:
    return f"key:{name}:{key}" if key else ""


def lock_key(name: str, singleton: str | None) -> str:
    return f"lock:{name}" if singleton else ""


def _flat(fields: Fields) -> list[str | int | float]:
    return [part for name, value in fields.items() if value is not None for part in (name, value)]


class Records:
    """The scripts bound to one Redis client."""

    def __init__(self, client: Redis) -> None:
        self.client = client
        folder = files(__package__ or "") / "lua"

        def script(name: str) -> Any:
            return client.register_script(metrics.LUA + (folder / f"{name}.lua").read_text(encoding="utf-8"))

        self._reserve, self._start, self._finish, self._cancel = map(script, ("reserve", "start", "finish", "cancel"))

    def reserve(
        self, job_id: str, name: str, key: str | None, fingerprint: str, fields: Fields, followers: dict[str, str], *, take_over: bool
    ) -> tuple[str, str]:
        """Write the job and those to follow it down before it is sent; answers id and fingerprint of the job that has the key."""
        holder, held = self._reserve(
            keys=[job_key(job_id), claim_key(name, key)],
            args=[job_id, fingerprint, RESERVED_FOR, int(take_over), *_flat({"name": name, "key": key, **fields})],
        )
        for follower, task in followers.items():
            self._reserve(
                keys=[job_key(follower), ""],
                args=[follower, "", settings().record_ttl, 0, *_flat({"name": task, "state": "scheduled", "queue": "", "priority": 5, "message": "waiting for earlier steps", "root": fields["root"]})],
            )
        return holder, held

    def confirm(self, job_id: str, name: str, key: str | None, queue: str) -> None:
        """The message was sent: keep what `reserve` wrote."""
        with self.client.pipeline(transaction=False) as pipe:
            pipe.hincrby(metrics.KEY, f"enqueued|{name}|{queue}|", 1)
            pipe.expire(job_key(job_id), settings().record_ttl, gt=True)
            if key:
                pipe.expire(claim_key(name, key), settings().idempotency_ttl, gt=True)
            pipe.execute()

    def withdraw(self, job_id: str, name: str, key: str | None) -> None:
        """The message was not sent: forget what `reserve` wrote."""
        keys = [job_key(job_id)]
        if key and (self.client.get(claim_key(name, key)) or "").partition("|")[0] == job_id:
            keys.append(claim_key(name, key))
        self.client.delete(*keys)

    def start(
        self,
        job_id: str,
        *,
        name: str,
        queue: str,
        owner: str,
        seq: int,
        key: str | None,
        fingerprint: str,
        singleton: str | None,
        due_at: float,
        fields: Fields,
    ) -> Verdict:
        """Ask whether this delivery may run, and if so note that it does."""
        conf = settings()
        reply = self._start(
            keys=[
                job_key(job_id),
                f"{job_key(job_id)}:lease",
                claim_key(name, key),
                lock_key(name, singleton),
                metrics.KEY,
            ],
            args=[
                job_id, time.time(), owner, int(conf.lease * 1000), conf.record_ttl, name, queue, seq, conf.max_deliveries,
                singleton or "", conf.idempotency_ttl, fingerprint, due_at, *_flat({"name": name, "key": key, **fields}),
            ],
        )  # fmt: skip
        return Verdict(*map(str, reply))

    def finish(
        self,
        job_id: str,
        state: State,
        *,
        name: str,
        queue: str,
        outcome: str,
        owner: str = "",
        result: str | bytes = "",
        key: str | None = None,
        singleton: str | None = None,
        seq: int | str = "",
        dead_letter: str = "",
        fields: Fields | None = None,
    ) -> bool:
        """Write down how a run ended; False if the job had ended before or another worker has it now."""
        conf = settings()
        return bool(
            self._finish(
                keys=[
                    job_key(job_id), f"{job_key(job_id)}:lease", result_key(job_id), claim_key(name, key),
                    lock_key(name, singleton), metrics.KEY, "dead", f"dead:{job_id}", "dead:queues",
                ],
                args=[
                    job_id, time.time(), owner, state, outcome, result, conf.record_ttl, conf.idempotency_ttl, name, queue, seq,
                    dead_letter, conf.result_ttl, *_flat(fields or {}),
                ],
            )
        )  # fmt: skip

    def release(self, job_id: str) -> None:
        """The process that ran it is gone: whoever gets the message next may take over at once."""
        self.client.delete(f"{job_key(job_id)}:lease")

    def cancel(self, job_id: str) -> str | None:
        """Cancel or ask to stop; answers the state before, None for an unknown job."""
        result = json.dumps({"status": "REVOKED", "result": None, "task_id": job_id, "children": [], "traceback": None})
        return self._cancel(
            keys=[job_key(job_id), f"{job_key(job_id)}:lease", result_key(job_id)],
            args=[time.time(), result, settings().result_ttl],
        )

    def update(self, job_id: str, fields: Fields) -> bool:
        """Set fields of a running job; True if it was asked to stop."""
        with self.client.pipeline(transaction=False) as pipe:
            pipe.hset(job_key(job_id), items=_flat(fields))
            pipe.hexists(job_key(job_id), "cancel")
            return bool(pipe.execute()[-1])

    def cancel_requested(self, job_id: str) -> bool:
        return bool(self.client.hexists(job_key(job_id), "cancel"))

    def status(self, job_id: str) -> JobStatus | None:
        """The job as callers see it; None if there is no record (unknown, or past its time)."""
        with self.client.pipeline(transaction=False) as pipe:
            pipe.hgetall(job_key(job_id))
            pipe.exists(f"{job_key(job_id)}:lease")
            pipe.exists(f"dead:{job_id}")
            record, leased, dead = pipe.execute()
        if "state" not in record:
            return None
        return JobStatus.model_validate(
            {
                **record,
                "id": job_id,
                "attempts": record.get("attempts", 0),
                "progress": Progress.model_validate({**record, "updated_at": record.get("progress_at")}),
                "stalled": record["state"] == "running" and not leased,
                "dead_letter": dead,
                "idempotency_key": record.get("key"),
            }
        )

    def ended(self, job_id: str) -> bool:
        return self.client.hget(job_key(job_id), "state") in FINAL


@cache
def records() -> Records:
    """This process's records."""
    return Records(redis())
