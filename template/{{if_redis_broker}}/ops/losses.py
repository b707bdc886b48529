"""Find jobs that wait by their records, while no message of theirs is left: `celery purge` and `DEL` report nothing."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from ..queues import QUEUES
from ..runtime.connection import redis
from ..runtime.record import job_key
from .backlog import PRIORITIES, list_name

NAMES = [queue.name for queue in QUEUES]
OTHERS: list[str] = []  # queues of no jobs, which may need a repair, too
WAITING = {"queued", "scheduled", "retrying"}
PAGE = 1000
FOREIGN = ("\x06\x163", "\x06\x166", "\x06\x169")  # what kombu adds to a queue's name for its priorities


def count_lost() -> dict[str, int]:
    """Jobs without a message in each queue."""
    counts = Counter(queue for _, queue in _lost())
    return {name: counts[name] for name in NAMES}


def list_lost(queue: str) -> list[str]:
    """The ids of its jobs without a message."""
    return [job_id for job_id, found_in in _lost() if found_in == queue]


def strays() -> Iterator[tuple[str, int, str]]:
    """What other programs sent without a queue, or by kombu's names for priorities: queue, count, how to send it."""
    yield "celery", _waiting("celery", ("", *FOREIGN)), "send them with queue=, one of queues.py's"
    for name in NAMES:
        yield (
            name,
            _waiting(name, FOREIGN),
            "send them without priority=, or with broker.py's `sep` and `priority_steps`",
        )


def _waiting(queue: str, suffixes: Iterable[str]) -> int:
    return sum(redis().llen(f"{queue}{suffix}") for suffix in suffixes)


def restore(queue: str) -> None:
    """Nothing: a list needs no declaration."""


def _lost() -> list[tuple[str, str]]:
    if not (waiting := dict(_without_run())):
        return []
    held = set(_messages())
    candidates = [(job_id, queue) for job_id, queue in waiting.items() if job_id not in held]
    still = _select([job_id for job_id, _ in candidates])  # meanwhile it may have begun and ended
    return [(job_id, queue) for job_id, queue in candidates if job_id in still]


def _without_run() -> Iterator[tuple[str, str]]:
    """The jobs that wait, and those whose worker is gone, by id with their queue."""
    cursor = 0
    while True:
        cursor, keys = redis().scan(cursor, match="job:*", count=PAGE, _type="hash")
        yield from _select([str(key).removeprefix("job:") for key in keys]).items()
        if not cursor:
            return


def _select(job_ids: list[str]) -> dict[str, str]:
    """Those of these jobs that wait or whose worker is gone, with their queue; none that is just being sent."""
    with redis().pipeline(transaction=False) as pipe:
        for job_id in job_ids:
            pipe.hmget(job_key(job_id), "state", "queue", "reserved")
            pipe.exists(f"{job_key(job_id)}:lease")
        answers = pipe.execute()
    found = {}
    for job_id, (state, queue, reserved), leased in zip(job_ids, answers[0::2], answers[1::2], strict=True):
        if queue and not reserved and (state in WAITING or (state == "running" and not leased)):
            found[job_id] = queue
    return found


def _messages() -> Iterator[str]:
    """The ids of the jobs that have one, in a list or in the hands of a worker, at one moment."""
    with redis().pipeline(transaction=True) as pipe:
        for name in NAMES:
            for step in PRIORITIES:
                pipe.lrange(list_name(name, step), 0, -1)
        pipe.hvals("unacked")
        *lists, unacked = pipe.execute()
    messages = [_parse(text) for texts in lists for text in texts]
    messages += [_parse(text)[0] for text in unacked]
    for message in messages:
        if isinstance(message, dict) and (job_id := (message.get("headers") or {}).get("id")):
            yield str(job_id)


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None  # not a message; a worker will make a dead letter of it
