"""Keep what failed for good where a person can see, mend, replay or discard it, one by one and by its id.

Celery drops such a message with a log line. A letter is written by the same script that ends the job, keyed by job
id, so that a second end writes no second letter, and carries what a replay needs: arguments, key, and the rest of its
workflow.
"""

import hashlib
import json
import time
from typing import Any

from celery.app.task import Context
from celery.worker.consumer import Consumer
from kombu import Message

from .record import envelope, queue_of, records
from .transport import UNDECODABLE


def describe(error: Any) -> str:
    """`Class: message`, of an exception or of the dictionary that Celery stores for one."""
    if isinstance(error, dict):
        message = error.get("exc_message") or ""
        text = " ".join(map(str, message)) if isinstance(message, (list, tuple)) else str(message)
        return f"{error.get('exc_type')}: {text}"
    return f"{type(error).__name__}: {error}"


def reason(request: Context, error: str) -> str:
    """Why it is dead: what the retry policy said, or what the main process saw."""
    return request.get("reason") or ("timed out" if error.startswith("TimeLimitExceeded") else "unexpected")


def encode(request: Context, reason: str, error: str, traceback: str | None) -> str:
    """The letter of a job that ended in a worker."""
    letter = {
        "id": request.id,
        "job": request.get("task"),
        "queue": queue_of(request),
        "reason": reason,
        "error": error,
        "traceback": traceback or "",
        "attempts": (request.retries or 0) + 1,
        "failed_at": time.time(),
        "idempotency_key": envelope(request)["key"] or None,
        "trace_id": envelope(request)["trace_id"],
        "args": request.args,
        "kwargs": request.kwargs,
        "priority": (request.delivery_info or {}).get("priority"),
        "workflow": {"link": request.callbacks, "link_error": request.errbacks, "chain": request.chain},
    }
    return json.dumps(letter, default=repr)


class JobConsumer(Consumer):
    """Celery's consumer; what it refuses becomes a dead letter before it is acknowledged."""

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        self._keep(message, "undecodable", exc)
        super().on_decode_error(message, exc)

    def on_unknown_message(self, body: Any, message: Message) -> None:
        self._keep(message, "undecodable", ValueError("not a task message"))
        super().on_unknown_message(body, message)

    def on_invalid_task(self, body: Any, message: Message, exc: Exception) -> None:
        self._keep(message, "undecodable", exc)
        super().on_invalid_task(body, message, exc)

    def on_unknown_task(self, body: Any, message: Message, exc: Exception) -> None:
        self._keep(message, "unknown job", ValueError(f"no job is named {message.headers.get('task')!r} here"))
        super().on_unknown_task(body, message, exc)

    @staticmethod
    def _keep(message: Message, why: str, error: Exception) -> None:
        headers = message.headers if isinstance(message.headers, dict) else {}
        body: Any = message.body
        args: Any = None
        kwargs: Any = None
        if why == "unknown job":
            try:
                args, kwargs, _ = message.decode()
            except Exception as undecodable:
                why, error = "undecodable", undecodable
        if message.content_type == UNDECODABLE:
            error = ValueError("the text in the queue is not a message")
        if not isinstance(body, str):
            body = bytes(body).decode("utf-8", "backslashreplace")
        job_id = headers.get("id") or "undecodable-" + hashlib.sha1(str(body).encode()).hexdigest()
        job, queue = headers.get("task") or "", (message.delivery_info or {}).get("routing_key") or ""
        letter = {
            "id": job_id,
            "job": job,
            "queue": queue,
            "reason": why,
            "error": describe(error),
            "failed_at": time.time(),
            "args": args,
            "kwargs": kwargs,
            "raw": body if args is None else None,
            "replayable": args is not None,
        }
        request = Context(id=job_id, task=job, delivery_info={"routing_key": queue})
        text = json.dumps(letter, default=repr)
        records().finish(request, "failed", "refused", letter=text, error=describe(error), priority=0)
