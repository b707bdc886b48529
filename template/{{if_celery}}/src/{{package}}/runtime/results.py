"""Keep small results in Redis and large ones elsewhere, by reference (claim check): Redis is memory, shared by all
queues.
"""

import json
from functools import cache
from typing import Any, Generic, TypeVar

from celery.app.task import Context
from pydantic import BaseModel
from pydantic_core import from_json

from ..large_results import LargeResults, open_large_results
from ..settings import settings
from .record import records, result_key

REFERENCE = "$ref"
T = TypeVar("T")


class Outcome(BaseModel, Generic[T]):
    """What a fan-in is told of a part declared with `@job(outcome=True)`: its value, or its error and the id of its
    job.
    """

    ok: bool
    value: T | None = None
    error: str | None = None
    job_id: str | None = None


@cache
def large_results() -> LargeResults:
    """Where this process keeps large results."""
    return open_large_results(settings().results_url)


def keep(request: Context, encoded: bytes) -> Any:
    """The value to store in Redis: the result, or a reference if it is larger than `inline_result_max`."""
    request.update(result_size=len(encoded))
    if len(encoded) <= settings().inline_result_max:
        return from_json(encoded)
    large_results().put(str(request.id), encoded)
    return {REFERENCE: request.id, "bytes": len(encoded)}


def reference(value: Any) -> str | None:
    """The job whose large result this value stands for."""
    return value[REFERENCE] if isinstance(value, dict) and value.keys() == {REFERENCE, "bytes"} else None


def resolve(value: Any, root: str | None) -> Any:
    """A large result handed from step to step of one workflow, loaded; anything else as it is.

    Only within a workflow, so that a payload cannot name another caller's result.
    """
    job_id = reference(value)
    if job_id is None or records().field(job_id, "root") != root:
        return value
    return from_json(b"".join(large_results().chunks(job_id)))


def stored(job_id: str) -> Any:
    """What Redis holds as the result of a job that succeeded; None when its time is over."""
    meta = records().client.get(result_key(job_id))
    return json.loads(str(meta))["result"] if meta else None
