"""Keep what failed for good where a person can see, mend, replay or discard it, one by one and by its id.

Celery drops such a message with a log line. A letter is written by the same script that ends the job, keyed by job id, so
that a second end writes no second letter, and carries what a replay needs: arguments, key, and the rest of its workflow.
"""

import json
import time
from typing import Any

from celery import Celery, current_app
from celery.app.task import Context
from celery.result import AsyncResult

from ..contract import DeadLetter, NotADeadLetter, Submission
from ..settings import settings
from .connection import redis
from .record import claim_key, job_key

PAGE = 200
# The first replay names the job that replaces this one. KEYS: dead job. ARGV: new id, TTL (s)
REPLAY = """
redis.call('HSETNX', KEYS[1], 'replayed_as', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return redis.call('HGET', KEYS[1], 'replayed_as')
"""


def describe(error: Any) -> str:
    """`Class: message`, of an exception or of the dictionary that Celery stores for one."""
    if isinstance(error, dict):
        message = error.get("exc_message") or ""
        text = " ".join(map(str, message)) if isinstance(message, (list, tuple)) else str(message)
        return f"{error.get('exc_type')}: {text}"
    return f"{type(error).__name__}: {error}"


def reason(request: Context, error: Any) -> str:
    """Why it is dead: what the retry policy said, or what the main process saw."""
    said = request.get("reason")
    return said or ("timed out" if describe(error).startswith("TimeLimitExceeded") else "unexpected")


def encode(request: Context, task: Any, error: Any, traceback: str | None) -> str:
    """The letter of a job that ended in a worker."""
    envelope = request.get("job") or {}
    return json.dumps(
        {
            "id": request.id,
            "job": request.get("task"),
            "queue": (request.delivery_info or {}).get("routing_key") or "",
            "reason": reason(request, error),
            "error": describe(error),
            "traceback": traceback or "",
            "attempts": (request.retries or 0) + 1,
            "failed_at": time.time(),
            "idempotency_key": envelope.get("key"),
            "trace_id": envelope.get("trace_id"),
            "args": request.args,
            "kwargs": request.kwargs,
            "priority": (request.delivery_info or {}).get("priority"),
            "workflow": {"link": request.callbacks, "link_error": request.errbacks, "chain": request.chain},
        },
        default=repr,
    )


def record_refused(job_id: str, job: str, queue: str, why: str, error: str, body: Any) -> None:
    """The letter of a message that no worker can run."""
    arguments = body if isinstance(body, list) and len(body) == 3 else None
    letter = {
        "id": job_id,
        "job": job,
        "queue": queue,
        "reason": why,
        "error": error,
        "failed_at": time.time(),
        "args": arguments[0] if arguments else None,
        "kwargs": arguments[1] if arguments else None,
        "raw": None if arguments else body,
        "replayable": why == "unknown job" and arguments is not None,
    }
    with redis().pipeline() as pipe:
        pipe.set(f"dead:{job_id}", json.dumps(letter, default=repr))
        pipe.zadd("dead", {job_id: letter["failed_at"]}, nx=True)
        pipe.hset(job_key(job_id), mapping={"name": job, "queue": queue, "state": "failed", "error": error, "finished_at": letter["failed_at"]})
        pipe.execute()
    redis().hincrby("dead:queues", queue, 1)


def _payload(stored: dict[str, Any]) -> Any:
    if stored.get("args") is None:
        return stored.get("raw")
    kwargs, parameter = stored["kwargs"], getattr(current_app.tasks.get(stored["job"]), "payload_parameter", None)
    if parameter:
        return kwargs.get(parameter, next(iter(stored["args"]), None))
    return kwargs or stored["args"] or None


def _letter(stored: dict[str, Any], replayed_as: str | None, *, whole: bool) -> DeadLetter:
    letter = DeadLetter.model_validate({**stored, "replayed_as": replayed_as})
    if whole:
        letter.payload = _payload(stored)
    else:
        letter.traceback = ""
    return letter


def listed(*, job: str | None, queue: str | None, reason: str | None, limit: int) -> list[DeadLetter]:
    """The newest first, without payload and traceback."""
    found: list[DeadLetter] = []
    wanted = {"job": job, "queue": queue, "reason": reason}
    for start in range(0, redis().zcard("dead"), PAGE):
        ids = redis().zrange("dead", start, start + PAGE - 1, desc=True)
        if not ids:
            break
        for job_id, text in zip(ids, redis().mget([f"dead:{job_id}" for job_id in ids]), strict=True):
            stored = json.loads(text) if text else {}
            if stored and all(value is None or stored.get(name) == value for name, value in wanted.items()):
                found.append(_letter(stored, redis().hget(job_key(job_id), "replayed_as"), whole=False))
                if len(found) == limit:
                    return found
    return found


def stored(job_id: str) -> dict[str, Any]:
    """The letter as it was written; raises NotADeadLetter."""
    text = redis().get(f"dead:{job_id}")
    if text is None:
        raise NotADeadLetter(f"there is no dead letter {job_id}")
    return json.loads(text)


def shown(job_id: str) -> DeadLetter:
    """One letter whole; raises NotADeadLetter."""
    return _letter(stored(job_id), redis().hget(job_key(job_id), "replayed_as"), whole=True)


def replay(app: Celery, job_id: str, new_id: str) -> Submission:
    """Run it again as a new job that knows the old one; a second replay answers with the first one's job.

    The link is written before the message is sent: a crash in between is mended by replaying once more, under the same id.
    Raises NotADeadLetter, also for a message that cannot be run.
    """
    earlier = redis().hget(job_key(job_id), "replayed_as")
    if earlier and not redis().exists(f"dead:{job_id}"):
        return Submission(id=earlier, created=False)
    letter = stored(job_id)
    task = app.tasks.get(letter["job"])
    if not letter.get("replayable", True) or task is None:
        raise NotADeadLetter(f"dead letter {job_id} ({letter['reason']}) cannot be replayed: discard it")
    chosen = redis().eval(REPLAY, 1, job_key(job_id), new_id, settings().record_ttl)
    if chosen != new_id and redis().exists(job_key(chosen)):
        _remove(job_id, letter["queue"])
        return Submission(id=chosen, created=False)
    options = {name: value for name, value in (letter.get("workflow") or {}).items() if value}
    result: AsyncResult = task.send(
        letter["args"],
        letter["kwargs"],
        chosen,
        idempotency_key=letter.get("idempotency_key"),
        replay_of=job_id,
        queue=letter["queue"] or None,
        priority=letter.get("priority"),
        **options,
    )[0]
    _remove(job_id, letter["queue"])
    return Submission(id=str(result.id), created=True)


def discard(job_id: str) -> None:
    """Forget it and free its key for a new job; raises NotADeadLetter."""
    letter = stored(job_id)
    key = claim_key(letter["job"], letter.get("idempotency_key"))
    if key and (redis().get(key) or "").partition("|")[0] == job_id:
        redis().delete(key)
    _remove(job_id, letter["queue"])


def _remove(job_id: str, queue: str) -> None:
    if redis().zrem("dead", job_id):
        redis().delete(f"dead:{job_id}")
        redis().hincrby("dead:queues", queue, -1)
