"""Keep small results in Redis and large ones elsewhere; and read them where a later step or a caller wants them.

Redis is memory, shared by all queues: over 64 KiB it holds a reference (claim check), also in what arq's
`Job.result()` reads.
"""

import asyncio
from functools import cache
from typing import Any

from pydantic_core import from_json

from ..large_results import LargeResults, open_large_results
from ..settings import settings
from .connection import dumps
from .record import records, result_key

REFERENCE = "$ref"


@cache
def large_results() -> LargeResults:
    """Where this process keeps large results; it blocks, so call it in a thread."""
    return open_large_results(settings().results_url)


async def keep(job_id: str, encoded: bytes) -> bytes:
    """What to store in Redis: the result, or a reference if it is larger than `inline_result_max`.

    One that looks like a reference is kept elsewhere, too: no job can name the result of another.
    """
    is_like_one = b'"$ref"' in encoded and reference(from_json(encoded)) is not None
    if len(encoded) <= settings().inline_result_max and not is_like_one:
        return encoded
    await asyncio.to_thread(large_results().put, job_id, encoded)
    return dumps({REFERENCE: job_id, "bytes": len(encoded)})


def reference(value: Any) -> str | None:
    """The job whose large result this value stands for."""
    return value[REFERENCE] if isinstance(value, dict) and value.keys() == {REFERENCE, "bytes"} else None


async def stored(*job_ids: str) -> list[Any]:
    """What Redis holds as the results of jobs that succeeded; None where its time is over."""
    found = await records().client.mget([result_key(job_id) for job_id in job_ids]) if job_ids else []
    return [from_json(document)["r"] if document else None for document in found]


async def resolve(value: Any) -> Any:
    """A large result handed from step to step of one workflow, loaded; anything else as it is."""
    job_id = reference(value)
    if job_id is None:
        return value
    return from_json(await asyncio.to_thread(lambda: b"".join(large_results().chunks(job_id))))
