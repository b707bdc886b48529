"""Keep small results in Redis and large ones elsewhere; and read them where a later step or a caller wants them.

Redis is memory, shared by all queues: over 64 KiB it holds a reference (claim check). What arq's `Job.result()` reads
is arq's own document, in JSON.
"""

import asyncio
import time
from functools import cache
from typing import Any

from pydantic_core import from_json

from ..large_results import LargeResults, open_large_results
from ..settings import settings
from .connection import dumps
from .record import Taken, queue_key, records, result_key

REFERENCE = "$ref"


@cache
def large_results() -> LargeResults:
    """Where this process keeps large results; it blocks, so call it in a thread."""
    return open_large_results(settings().results_url)


async def keep(job_id: str, encoded: bytes) -> bytes:
    """What to store in Redis: the result, or a reference if it is larger than `inline_result_max`."""
    if len(encoded) <= settings().inline_result_max:
        return encoded
    await asyncio.to_thread(large_results().put, job_id, encoded)
    return dumps({REFERENCE: job_id, "bytes": len(encoded)})


def document(taken: Taken, call: dict[str, Any], *, ok: bool, value: bytes) -> bytes:
    """arq's result document around a result, or an error, that is JSON already."""
    now = time.time()
    head = {
        "t": taken.attempt,
        "f": taken.name,
        "a": call.get("a", []),
        "k": call.get("k", {}),
        "et": call.get("et", 0),
        "s": ok,
        "st": int((now - time.monotonic() + taken.began) * 1000),
        "ft": int(now * 1000),
        "q": queue_key(taken.queue, taken.priority),
        "id": taken.id,
    }
    return b'{"r":' + value + b"," + dumps(head)[1:]


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
