"""Read, replay and discard dead letters; runtime/dead_letters.py says why and how they are written."""

import json
from typing import Any

from ..celery import app
from ..contract import ContractError, DeadLetter, NotADeadLetter, Submission
from ..runtime.connection import redis
from ..runtime.record import job_key, records
from ..runtime.task import JobTask

PAGE = 200


def listed(*, job: str | None, queue: str | None, reason: str | None, limit: int) -> list[DeadLetter]:
    """The newest first, without payload and traceback."""
    found: list[DeadLetter] = []
    wanted = {"job": job, "queue": queue, "reason": reason}
    for start in range(0, redis().zcard("dead"), PAGE):
        ids = [str(job_id) for job_id in redis().zrange("dead", start, start + PAGE - 1, desc=True)]
        for text in redis().mget([f"dead:{job_id}" for job_id in ids]) if ids else []:
            letter = json.loads(str(text)) if text else {}
            if letter and all(value is None or letter.get(name) == value for name, value in wanted.items()):
                found.append(DeadLetter.model_validate({**letter, "traceback": ""}))
                if len(found) == limit:
                    return found
    return found


def shown(job_id: str) -> DeadLetter:
    """One letter whole; raises NotADeadLetter."""
    letter = _stored(job_id)
    return DeadLetter.model_validate({**letter, "payload": _payload(letter)})


def replay(job_id: str, new_id: str) -> Submission:
    """Run it again as a new job that knows the old one; a second replay answers with the first one's job.

    The link is written before the message is sent: a crash in between is mended by replaying once more, under the
    same id. Raises NotADeadLetter, ContractError for a message that cannot be run.
    """
    earlier = records().field(job_id, "replayed_as")
    if earlier and not redis().exists(f"dead:{job_id}"):
        return Submission(id=earlier, created=False)
    letter = _stored(job_id)
    task: Any = app.tasks.get(letter["job"])
    if not letter.get("replayable", True) or not isinstance(task, JobTask):
        raise ContractError(f"dead letter {job_id} ({letter['reason']}) cannot be run again: discard it")
    chosen = records().replay(job_id, new_id)
    sent = chosen != new_id and bool(redis().exists(job_key(chosen)))
    if not sent:
        task.send(
            letter["args"],
            letter["kwargs"],
            chosen,
            idempotency_key=letter.get("idempotency_key"),
            replay_of=job_id,
            queue=letter["queue"] or None,
            priority=letter.get("priority"),
            **{name: value for name, value in (letter.get("workflow") or {}).items() if value},
        )
    _remove(job_id, letter["queue"])
    return Submission(id=chosen, created=not sent)


def discard(job_id: str) -> None:
    """Forget it and free its key for a new job; raises NotADeadLetter."""
    letter = _stored(job_id)
    if key := letter.get("idempotency_key"):
        records().free(job_id, letter["job"], key)
    _remove(job_id, letter["queue"])


def _stored(job_id: str) -> dict[str, Any]:
    text = redis().get(f"dead:{job_id}")
    if text is None:
        raise NotADeadLetter(f"there is no dead letter {job_id}")
    return json.loads(str(text))


def _payload(letter: dict[str, Any]) -> Any:
    """The payload as it was submitted, also where it does not fit the job any more."""
    args, kwargs = letter["args"], letter["kwargs"]
    if args is None:
        return letter.get("raw")
    parameter = getattr(app.tasks.get(letter["job"]), "payload_parameter", None)
    if parameter:
        return kwargs.get(parameter, next(iter(args), None))
    return kwargs or args or None


def _remove(job_id: str, queue: str) -> None:
    if redis().zrem("dead", job_id):
        redis().delete(f"dead:{job_id}")
        redis().hincrby("dead:queues", queue, -1)
