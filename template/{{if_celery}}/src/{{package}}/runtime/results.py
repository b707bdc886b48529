"""Keep small results in Redis and large ones elsewhere, by reference (claim check): Redis is memory, shared by all queues."""

import json
from functools import cache
from typing import Any

from celery.app.task import Context
from pydantic_core import from_json

from ..settings import settings
from .large_results import LargeResults, open_large_results
from .record import job_key, records

REFERENCE = "$ref"


@cache
def large_results() -> LargeResults:
    """Where this process keeps large results."""
    return open_large_results(settings().results_url)


def keep(request: Context, encoded: bytes) -> Any:
    """The value to store in Redis: the result itself, or a reference to it when it is larger than `inline_result_max`."""
    request.result_size = len(encoded)
    if len(encoded) <= settings().inline_result_max:
        return from_json(encoded)
    large_results().put(request.id, encoded)
    return {REFERENCE: request.id, "bytes": len(encoded)}


def reference(value: Any) -> str | None:
    """The job whose large result this value stands for."""
    return value[REFERENCE] if isinstance(value, dict) and value.keys() == {REFERENCE, "bytes"} else None


def resolve(value: Any, root: str | None) -> Any:
    """A large result handed from step to step of one workflow, loaded; anything else as it is.

    Only within a workflow, so that a payload cannot name another caller's result.
    """
    job_id = reference(value)
    if job_id is None or records().client.hget(job_key(job_id), "root") != root:
        return value
    return json.loads(b"".join(large_results().chunks(job_id)))
