"""Refuse numbers, texts and ids that no broker, status or page can hold, where they are given.

A delay of `nan` or a priority of 12 makes a job that never starts; `progress(done=float("nan"))` would make each look
at the job an error of the API; a job whose id is the name of a key of ours would overwrite that.
"""

import hashlib
from typing import Any

from ..contract import InvalidPayload
from .errors import shorten

YEAR = 31_536_000  # seconds; no delay is longer
LONGEST_KEY = 255  # characters, as the API has it
LARGEST = 2**53  # the largest whole number that every reader of JSON keeps exactly


def checked_delay(seconds: float) -> float:
    """The delay itself. Raises InvalidPayload."""
    if not 0 <= seconds <= YEAR:
        raise InvalidPayload(f"a delay of {seconds:g} s: give 0 to {YEAR} seconds")
    return seconds


def checked_priority(priority: int) -> int:
    """The priority itself. Raises InvalidPayload."""
    if priority not in range(10):
        raise InvalidPayload(f"priority {priority} must be 0 to 9 (9 is the most urgent)")
    return int(priority)


def checked_key(key: object) -> str:
    """An idempotency key as it is stored: a long one by its hash, "" for none. Raises InvalidPayload."""
    text = str(key or "")
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidPayload(f"idempotency key {shorten(text, LONGEST_KEY)!r} is no text: {error}") from error
    return text if len(text) <= LONGEST_KEY else f"{text[:100]}…{hashlib.sha256(encoded).hexdigest()}"


def is_ours(job_id: str) -> bool:
    """Whether a job with this id would share a key with what is not a job."""
    return job_id == "queues" or job_id.endswith(":lease")  # `dead:queues` is no dead letter, `job:<id>:lease` no job


def checked_id(job_id: str) -> str:
    """The id itself, which a caller chose. Raises ValueError."""
    if is_ours(job_id) or not job_id.isprintable() or not 0 < len(job_id) <= LONGEST_KEY:
        raise ValueError(f"{shorten(job_id, LONGEST_KEY)!r} cannot be a job's id: choose a UUID")
    return job_id


def report(
    *, stage: str | None = None, done: int | None = None, total: int | None = None, message: str | None = None
) -> dict[str, Any]:
    """What a job reports of its progress, texts cut to some KiB. Raises ValueError for a number that is no count."""
    texts = {name: shorten(str(text)) for name, text in (("stage", stage), ("message", message)) if text is not None}
    numbers = {name: _count(name, number) for name, number in (("done", done), ("total", total)) if number is not None}
    return texts | numbers


def _count(name: str, number: float) -> int:
    if not abs(number) <= LARGEST or number != int(number):
        raise ValueError(f"progress({name}={number:.20g}) is no count: give a whole number up to {LARGEST}")
    return int(number)
