"""Keep what failed for good where a person can see, mend, replay or discard it, one by one and by its id.

arq deletes such a job's message and leaves a result that expires. A letter is written by the same script that ends the
job, keyed by job id, so that a second end writes no second letter, and carries what a replay needs: arguments, key, and
the rest of its workflow.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from ..contract import ContractError, DeadLetter, NotADeadLetter, Submission
from ..runtime.bounds import is_ours
from ..runtime.connection import dumps, redis, text
from ..runtime.job import Job, jobs
from ..runtime.record import claim_key, job_key, records

PAGE = 200
WORKFLOW = ("next", "after", "on_error", "own_undo", "group", "part", "input", "failed_step")  # fields of the record

# KEYS: 1 dead, 2 dead:queues, 3 the letter, 4 its idempotency key's claim, to be freed. ARGV: 1 id, 2 queue
REMOVE = """
if string.match(redis.call('GET', KEYS[4]) or '', '^[^|]*') == ARGV[1] then redis.call('DEL', KEYS[4]) end
if redis.call('ZREM', KEYS[1], ARGV[1]) == 1 then redis.call('HINCRBY', KEYS[2], ARGV[2], -1) end
redis.call('DEL', KEYS[3])
"""


def encode(
    job_id: str,
    record: Mapping[str, Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    reason: str,
    error: str,
    traceback: str = "",
) -> bytes:
    """The letter of a job that ended in a worker; `record` is the job's as it stands in Redis."""
    return dumps(
        {
            "id": job_id,
            "job": record.get("name") or "",
            "queue": record.get("queue") or "",
            "reason": reason,
            "error": error,
            "traceback": traceback,
            "attempts": int(record.get("attempts") or 0),
            "failed_at": time.time(),
            "idempotency_key": record.get("key") or None,
            "trace_id": record.get("trace_id"),
            "args": args,
            "kwargs": kwargs,
            "priority": record.get("priority"),
            "workflow": {name: record[name] for name in WORKFLOW if record.get(name)},
        }
    )


def undecodable(job_id: str, queue: str, message: bytes, error: str) -> bytes:
    """The letter of a message that is no job's; it can be looked at and discarded, not run."""
    return dumps(
        {
            "id": job_id,
            "job": "",
            "queue": queue,
            "reason": "undecodable",
            "error": error,
            "failed_at": time.time(),
            "args": None,
            "kwargs": None,
            "raw": message.decode("utf-8", "backslashreplace"),
            "replayable": False,
        }
    )


async def listed(*, job: str | None, queue: str | None, reason: str | None, limit: int) -> list[DeadLetter]:
    """The newest first, without payload and traceback."""
    found: list[DeadLetter] = []
    wanted = {"job": job, "queue": queue, "reason": reason}
    for start in range(0, await redis().zcard("dead"), PAGE):
        ids: list[bytes] = await redis().zrange("dead", start, start + PAGE - 1, desc=True)
        for stored in await redis().mget([_key(text(job_id)) for job_id in ids]) if ids else []:
            letter = from_json(stored) if stored else {}
            if letter and all(value is None or letter.get(name) == value for name, value in wanted.items()):
                found.append(DeadLetter.model_validate({**letter, "traceback": ""}))
                if len(found) == limit:
                    return found
    return found


async def shown(job_id: str) -> DeadLetter:
    """One letter whole; raises NotADeadLetter."""
    letter = await _stored(job_id)
    return DeadLetter.model_validate({**letter, "payload": _payload(letter)})


async def replay(job_id: str, new_id: str) -> Submission:
    """Run it again as a new job that knows the old one; a second replay answers with the first one's job.

    The link is written before the job is sent: a crash in between is mended by replaying once more, under the same id.
    Raises NotADeadLetter, ContractError for a letter that cannot be run.
    """
    try:
        letter = await _stored(job_id)
    except NotADeadLetter:
        if earlier := await records().field(job_id, "replayed_as"):
            return Submission(id=earlier, created=False)
        raise
    job = jobs().get(letter["job"])
    if job is None or not letter.get("replayable", True):
        raise ContractError(f"dead letter {job_id} ({letter['reason']}) cannot be run again: discard it")
    chosen = text(await records().step("replay", job_id, new_id))
    sent = chosen != new_id and bool(await redis().exists(job_key(chosen)))
    if not sent:
        submission = await _send_again(job, letter, chosen)
        if submission.id != chosen:
            raise ContractError(
                f"dead letter {job_id}: its key is in use by job {submission.id}; replay when that has ended"
            )
    await _remove(job_id, letter["queue"])
    return Submission(id=chosen, created=not sent)


async def discard(job_id: str) -> None:
    """Forget it and free its key for a new job; raises NotADeadLetter."""
    letter = await _stored(job_id)
    await _remove(job_id, letter["queue"], claim_key(letter["job"], letter.get("idempotency_key") or ""))


async def _send_again(job: Job[Any, Any], letter: dict[str, Any], new_id: str) -> Submission:
    workflow = dict(letter["workflow"])
    try:
        return await job.send(
            job.bind(letter["args"], letter["kwargs"]),
            restart=True,
            job_id=new_id,
            key=letter["idempotency_key"],
            queue=letter["queue"] or None,
            priority=None if letter["priority"] is None else int(letter["priority"]),
            replay_of=letter["id"],
            given=workflow.pop("input", None),
            **workflow,
        )
    except (TypeError, ValidationError) as error:
        raise ContractError(
            f"dead letter {letter['id']}: its payload does not fit {job.name} as it is now, discard it: {error}"
        ) from error


def _key(job_id: str) -> str:
    return f"dead:{job_id}"


async def _stored(job_id: str) -> dict[str, Any]:
    stored: bytes | None = None if is_ours(job_id) else await redis().get(_key(job_id))
    if stored is None:
        raise NotADeadLetter(f"there is no dead letter {job_id}")
    return from_json(stored)


def _payload(letter: dict[str, Any]) -> Any:
    """The payload as it was submitted, also where it does not fit the job any more."""
    if letter["args"] is None:
        return letter["raw"]
    job = jobs().get(letter["job"])
    parameter = job.payload_parameter if job else None
    if parameter:
        return letter["kwargs"].get(parameter, next(iter(letter["args"]), None))
    return letter["kwargs"] or letter["args"] or None


async def _remove(job_id: str, queue: str, claim: str = "") -> None:
    await redis().eval(REMOVE, 4, "dead", "dead:queues", _key(job_id), claim, job_id, queue)
