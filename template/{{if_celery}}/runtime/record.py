"""The record of each job in Redis, changed by one atomic step of record.lua at a time.

A crash between two steps is the ordinary case: what was written decides whether a redelivered message runs, waits or
is dropped. So a job has one effect although the broker delivers it at least once, and state, result, dead letter and
counters never disagree. Keys: `job:<id>` (hash), `job:<id>:lease` (who runs it), `key:<job>:<key>` (idempotency),
`lock:<job>`.
"""

import json
import re
import time
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib.resources import files
from threading import Lock
from typing import Any

from celery.app.task import Context
from celery.exceptions import InvalidTaskError
from redis import Redis
from redis.connection import ConnectionInterface
from redis.exceptions import ConnectionError, NoScriptError

from ..contract import DURATION_BUCKETS, WAIT_BUCKETS, State, UnknownJob
from ..settings import settings
from . import transport
from .bounds import is_ours
from .connection import redis
from .errors import shorten

PROCESS = uuid.uuid4().hex  # this one's and, inherited by fork, its pool processes' name in leases
RESERVED_FOR = 30  # seconds in which a sender must have sent its message
METRICS = "metrics"
ENVELOPE: dict[str, Any] = {"key": str, "trace_id": str, "submitted_at": (int, float), "snoozes": int}

NOTES = (
    "due_at", "ended_before", "error", "error_traceback", "outcome", "owner", "reason", "replaced", "result_size",
    "run", "why", "wished",
)  # fmt: skip
"""What is noted on a request about its run."""

Record = dict[str, Any]


def is_job_id(value: object) -> bool:
    """Whether it can name a job; `|` ends an id where the holder of a key is noted."""
    return isinstance(value, str) and bool(value) and value.isprintable() and "|" not in value and not is_ours(value)


def job_key(job_id: str) -> str:
    """The record's key; raises UnknownJob for an id that no job can have."""
    if not is_job_id(job_id):
        raise UnknownJob(f"there is no job {shorten(job_id, 200)!r}: it cannot be the id of one")
    return f"job:{job_id}"


def claim_key(name: str, key: str) -> str:
    """Where the holder of an idempotency key is noted: `<job id>|<fingerprint of its payload>`."""
    return f"key:{name}:{key}"


def result_key(job_id: str) -> str:
    """Where Celery's Redis backend keeps the result."""
    return f"celery-task-meta-{job_id}"


def envelope(request: Context) -> dict[str, Any]:
    """What travels with the message besides its arguments; a message sent by a foreign client has none."""
    head = request.get("job")
    if isinstance(head, dict) and head.keys() >= ENVELOPE.keys():
        return head
    return {"key": "", "trace_id": request.id, "submitted_at": time.time(), "snoozes": 0}


def require_envelope(request: Context) -> None:
    """Raise InvalidTaskError if what travels with the message is not of our making, on which a run would stumble."""
    head, limits = request.get("job") or envelope(request), request.get("timelimit") or (None, None)
    if not isinstance(head, dict) or not all(isinstance(head.get(name), kind) for name, kind in ENVELOPE.items()):
        raise InvalidTaskError(f"header job is {shorten(repr(head), 200)}")
    if not isinstance(request.retries or 0, int):
        raise InvalidTaskError(f"header retries is {shorten(repr(request.retries), 200)}")
    if len(limits) != 2 or not all(isinstance(limit or 0, (int, float)) for limit in limits):
        raise InvalidTaskError(f"header timelimit is {shorten(repr(limits), 200)}")


def clear_notes(request: Context) -> None:
    """Before its run: Celery sets a message's own headers as attributes, and these may have the names of our notes."""
    request.update(dict.fromkeys(NOTES))


def priority_of(request: Context) -> int:
    """The priority that its message has; 0 for one that no queue knows."""
    priority: Any = (request.delivery_info or {}).get("priority")
    return int(priority) if priority in range(10) else 0


def queue_of(request: Context) -> str:
    """The queue that the message came from."""
    return (request.delivery_info or {}).get("routing_key") or ""


def seq(request: Context) -> int:
    """Which message of its job this is: grows with each retry and snooze."""
    return (request.retries or 0) + envelope(request)["snoozes"]


def storable(fields: Mapping[str, Any]) -> dict[Any, Any]:
    """Fields of a record without those that are None; texts are cut, and half a surrogate pair shows as `\\ud83d`."""
    return {
        name: shorten(value) if isinstance(value, str) else value for name, value in fields.items() if value is not None
    }


def owner(pid: int | None) -> str:
    """How each owner of a lease begins whose run is in this pool process."""
    return f"{PROCESS}:{pid}:"


# What runs keeps its lease and its singleton lock, also if they ended in an outage and nobody else has begun it.
# ARGV: lease in ms; then, of each run, job id, how its owner begins, lock's name ('' = none).
RENEW = """
for i = 2, #ARGV, 3 do
  local job, lock = 'job:' .. ARGV[i], 'lock:' .. ARGV[i + 2]
  local ours = redis.call('PEXPIRE', job .. ':lease', ARGV[1]) == 1
  if not ours then
    local state, owner = unpack(redis.call('HMGET', job, 'state', 'owner'))
    ours = state == 'running' and owner and string.sub(owner, 1, #ARGV[i + 1]) == ARGV[i + 1]
    if ours then redis.call('SET', job .. ':lease', owner, 'PX', ARGV[1]) end
  end
  if ours and ARGV[i + 2] ~= '' then
    local holder = redis.call('GET', lock)
    if not holder or holder == ARGV[i] then redis.call('SET', lock, ARGV[i], 'PX', ARGV[1]) end
  end
end
"""


class Records:
    """The steps of record.lua, bound to one Redis client."""

    def __init__(self, client: Redis) -> None:
        self.client, self._lock = client, Lock()
        self.connection: ConnectionInterface | None = None  # a pool process's own, for steps (ops/worker.py)
        conf = settings()
        constants = {
            "RESERVED": RESERVED_FOR,
            "LEASE": int(conf.lease * 1000),
            "RECORD_TTL": conf.record_ttl,
            "RESULT_TTL": conf.result_ttl,
            "KEY_TTL": conf.idempotency_ttl,
            "MAX_DELIVERIES": conf.max_deliveries,
            "WAIT_BUCKETS": f"{{{','.join(map(str, WAIT_BUCKETS))}}}",
            "DURATION_BUCKETS": f"{{{','.join(map(str, DURATION_BUCKETS))}}}",
        }
        text = (files(__package__ or "") / "record.lua").read_text(encoding="utf-8")
        shared = transport.AFTER_EACH_STEP + text.partition("\nfunction steps.")[0]
        self._steps = {}  # a script each: Redis makes anew, at each call, whatever a script defines
        for name, body in re.findall(r"^function steps\.(\w+)\(\)$(.*?)^end$", text, re.MULTILINE | re.DOTALL):
            script = f"{shared}\nlocal function step(){body}end\nreturn after(step())"
            values = [f"local {constant} = {value}\n" for constant, value in constants.items() if constant in script]
            self._steps[name] = client.register_script("".join(values) + script)

    def _step(self, step: str, job_id: Any, *args: Any) -> Any:
        script, key = self._steps[step], job_key(job_id)
        if self.connection:  # directly it takes half of the CPU; what fails goes the ordinary way, which tries again
            with self._lock:
                try:
                    self.connection.connect()  # nothing if it is; `send_command` would not ask Sentinel where to
                    self.connection.send_command("EVALSHA", script.sha, 1, key, *args)
                    return self.connection.read_response()
                except BaseException as error:  # a time limit, too: a late reply must not be the next step's
                    self.connection.disconnect()
                    if not isinstance(error, (ConnectionError, NoScriptError)):
                        raise
        return script(keys=[key], args=args)

    def reserve(
        self, job_id: str, name: str, key: str, fingerprint: str, record: Record, followers: Record, *, take_over: bool
    ) -> tuple[str, str, bool]:
        """Write the job, and those to follow it, down before it is sent.

        Answers who holds the key: the job's id, its fingerprint, and whether its message was surely sent.
        """
        args = [job_id, name, key, fingerprint, int(take_over), json.dumps(record), json.dumps(followers)]
        holder, held, stage = self._step("reserve", job_id, *args)
        return holder, held, stage == "sent"

    def confirm(self, job_id: str, name: str, key: str, queue: str, delay: int) -> None:
        """The message was sent: keep what `reserve` wrote, from when it is due (`delay` in seconds)."""
        self._step("confirm", job_id, name, key, queue, delay)

    def withdraw(self, job_id: str, name: str, key: str) -> bool:
        """The caller is told that the message was not sent: if it was, it is dropped. False if the job runs already."""
        return bool(self._step("withdraw", job_id, job_id, name, key, time.time()))

    def free(self, job_id: str, name: str, key: str) -> None:
        """Let another job have this job's idempotency key."""
        if str(self.client.get(claim_key(name, key)) or "").partition("|")[0] == job_id:
            self.client.delete(claim_key(name, key))

    def start(self, request: Context, owner: str, name: str, singleton: str | None) -> tuple[str, str]:
        """Ask whether this delivery may run, and if so note that it does.

        Answers what to do, and the detail that goes with it: attempt, wait in ms, another job's id …
        """
        head = envelope(request)
        due_at = datetime.fromisoformat(request.eta).timestamp() if request.eta else head["submitted_at"]
        record = {
            "name": name,
            "submitted_at": head["submitted_at"],
            "priority": priority_of(request),
            "root": request.root_id or request.id,
            "trace_id": head["trace_id"],
        }
        action, detail = self._step(
            "start", request.id, request.id, time.time(), owner, name, queue_of(request), seq(request), head["key"],
            head.get("fingerprint", ""), singleton or "", due_at, json.dumps(record),
        )  # fmt: skip
        return action, str(detail)

    def finish(
        self, request: Context, state: State, outcome: str, *, result: str = "", letter: str = "", **fields: Any
    ) -> bool:
        """Write down how a run ended; False if the job had ended before or another worker has it now."""
        again = seq(request) if state in ("retrying", "scheduled") else ""
        if again != "":  # what the next message counts, should it have to be sent once more
            fields["retries"] = (request.retries or 0) + (state == "retrying")
            fields["snoozes"] = envelope(request)["snoozes"] + (state == "scheduled")
        pairs = [part for field, value in storable(fields).items() for part in (field, value)]
        ended = self._step(
            "finish", request.id, request.id, time.time(), request.get("owner") or "", state, outcome, result,
            request.get("task") or "", queue_of(request), again, envelope(request)["key"], letter, *pairs,
        )  # fmt: skip
        if run := request.get("run"):
            run.ended(outcome, **{name: fields.get(name) for name in ("error", "message", "result_size")})
        return bool(ended)

    def release(self, job_id: str, begins: str) -> None:
        """The process is gone whose owner `begins` so: whoever gets its message next may take over at once."""
        self._step("release", job_id, begins)

    def cancel(self, job_id: str) -> str | None:
        """Cancel or ask to stop; answers the state before, None for an unknown job."""
        result = {"status": "REVOKED", "result": None, "task_id": job_id, "children": [], "traceback": None}
        return self._step("cancel", job_id, job_id, time.time(), json.dumps(result))

    def give_up(self, jobs: Sequence[tuple[str, str, str, str]]) -> None:
        """End jobs that waited for one that did not succeed: id, name, error and Celery's result of each."""
        if jobs:
            self._step("give_up", jobs[0][0], time.time(), json.dumps(jobs))

    def ended(self, job_id: str) -> tuple[str | None, str | None, str | None]:
        """State, error, and the job that replaces it, of a job that has ended."""
        fields = self.client.hmget(job_key(job_id), "state", "error", "replayed_as")
        state, error, replayed_as = (None if value is None else str(value) for value in fields)
        return state, error, replayed_as

    def replay(self, job_id: str, new_id: str) -> str:
        """Name the job that replaces a dead one; answers the first that was named."""
        return self._step("replay", job_id, new_id)

    def counts(self) -> dict[str, float]:
        """What the steps have counted: each start with its wait, each end with its duration, sums in µs.

        Earlier releases counted starts and ends once more by themselves, and sums in seconds; these are added.
        """
        counts: defaultdict[str, float] = defaultdict(float)
        for field, value in self.client.hgetall(METRICS).items():
            what, job, queue, which, *outcome = str(field).split("|")
            number = float(str(value))
            if which == "us":
                which, number = "sum", number / 1e6
            elif what == "wait" and which != "sum":
                counts[f"started|{job}|{queue}|"] += number
            if what != "started":
                counts[f"{what}|{job}|{queue}|{which}"] += number
            for name in outcome:
                counts[f"finished|{job}|{queue}|{name}"] += number
        return counts

    def update(self, job_id: str, **fields: Any) -> bool:
        """Set fields of a running job; True if it was asked to stop."""
        with self.client.pipeline(transaction=False) as pipe:
            pipe.hset(job_key(job_id), mapping=storable(fields))
            pipe.hexists(job_key(job_id), "cancel")
            return bool(pipe.execute()[-1])

    def field(self, job_id: str, name: str) -> str | None:
        """One field of the record."""
        value = self.client.hget(job_key(job_id), name)
        return None if value is None else str(value)


@cache
def records() -> Records:
    """This process's records."""
    return Records(redis())
