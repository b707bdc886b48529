"""Keep what failed for good where a person can see, mend, replay or discard it, one by one and by its id.

Celery drops such a message with a log line. A letter is written by the same script that ends the job, keyed by job
id, so that a second end writes no second letter, and carries what a replay needs: arguments, key, and the rest of its
workflow.
"""

import hashlib
import time
from collections.abc import Callable
from logging import getLogger
from typing import Any

import structlog
from celery.app.task import Context
from celery.worker.consumer import Consumer
from kombu import Message
from pydantic import ValidationError

from ..contract import ContractError, DeadLetter, NotADeadLetter, Submission
from . import errors, workflows
from .connection import redis
from .errors import shorten
from .record import envelope, is_job_id, job_key, priority_of, queue_of, records
from .serializer import dumps, loads

log = structlog.get_logger(__name__)
PAGE = 200
CARRIED = ("job", "root_id", "parent_id", "group", "group_index", "callbacks", "errbacks", "chain", "chord")
UNDECODABLE = "application/x-undecodable"  # the content type of text that is no message


def describe(error: Any) -> str:
    """`Class: text`, of an exception or of the dictionary that Celery stores for one."""
    if isinstance(error, dict):
        message = error.get("exc_message") or ""
        text = " ".join(map(str, message)) if isinstance(message, (list, tuple)) else str(message)
        return shorten(f"{error.get('exc_type')}: {text}")
    return errors.describe(error)


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
        "priority": priority_of(request),
        "workflow": {"link": request.callbacks, "link_error": request.errbacks, "chain": request.chain},
    }
    return dumps(letter)


class JobConsumer(Consumer):
    """Celery's consumer; what it refuses becomes a dead letter before it is acknowledged."""

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Message], None]:
        """A message with headers that Celery does not expect is refused, too; its error would end the worker."""
        handle = super().create_task_handler(*args, **kwargs)

        def handle_or_refuse(message: Message) -> None:
            try:
                handle(message)
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                self.keep(message, "undecodable", error)
                message.reject_log_error(getLogger(__name__), self.connection_errors)

        return handle_or_refuse

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        self.keep(message, "undecodable", exc)
        super().on_decode_error(message, exc)

    def on_unknown_message(self, body: Any, message: Message) -> None:
        self.keep(message, "undecodable", ValueError("not a task message"))
        super().on_unknown_message(body, message)

    def on_invalid_task(self, body: Any, message: Message, exc: Exception) -> None:
        self.keep(message, "undecodable", exc)
        super().on_invalid_task(body, message, exc)

    def on_unknown_task(self, body: Any, message: Message, exc: Exception) -> None:
        self.keep(message, "unknown job", ValueError(f"no job is named {message.headers.get('task')!r} here"))
        super().on_unknown_task(body, message, exc)

    @staticmethod
    def keep(message: Message, why: str, error: Exception) -> None:
        """Write the letter of a message that cannot be run."""
        headers = message.headers if isinstance(message.headers, dict) else {}
        embedded: Any = None
        body: Any = message.body
        args: Any = None
        kwargs: Any = None
        if why == "unknown job":
            try:
                args, kwargs, embedded = message.decode()
            except Exception as undecodable:
                why, error = "undecodable", undecodable
        if message.content_type == UNDECODABLE:
            error = ValueError("the text in the queue is not a message")
        if isinstance(body, (bytes, bytearray, memoryview)):
            body = bytes(body).decode("utf-8", "backslashreplace")
        body = str(body)
        job_id, digest = headers.get("id"), hashlib.sha1(repr((message.headers, body)).encode()).hexdigest()
        job_id = job_id if is_job_id(job_id) else f"undecodable-{digest}"
        job = shorten(str(headers.get("task") or ""), 200)
        queue = (message.delivery_info or {}).get("routing_key") or ""
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
        given = {**headers, **(embedded if isinstance(embedded, dict) else {})}
        request = Context(
            {name: given[name] for name in CARRIED if name in given},
            id=job_id, task=job, delivery_info={"routing_key": queue},
        )  # fmt: skip
        text = dumps(letter)
        records().finish(request, "failed", "refused", letter=text, error=describe(error), priority=0)
        try:
            workflows.end(_app().backend, request, error, "failed", describe(error))
        except (AttributeError, KeyError, TypeError, ValueError) as malformed:  # a foreign client's workflow
            log.warning("the workflow of a refused message was not ended", job_id=job_id, error=repr(malformed))


def listed(*, job: str | None, queue: str | None, reason: str | None, limit: int) -> list[DeadLetter]:
    """The newest first, without payload and traceback."""
    found: list[DeadLetter] = []
    wanted = {"job": job, "queue": queue, "reason": reason}
    for start in range(0, redis().zcard("dead"), PAGE):
        ids = [str(job_id) for job_id in redis().zrange("dead", start, start + PAGE - 1, desc=True)]
        for text in redis().mget([f"dead:{job_id}" for job_id in ids]) if ids else []:
            letter = loads(text) if text else {}
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
    try:
        letter = _stored(job_id)
    except NotADeadLetter:
        if earlier := records().field(job_id, "replayed_as"):
            return Submission(id=earlier, created=False)
        raise
    task = _task(letter["job"])
    if not letter.get("replayable", True) or not hasattr(task, "send"):
        raise ContractError(f"dead letter {job_id} ({letter['reason']}) cannot be run again: discard it")
    chosen = records().replay(job_id, new_id)
    sent = chosen != new_id and bool(redis().exists(job_key(chosen)))
    if not sent:
        try:
            result, _ = task.send(
                letter["args"],
                letter["kwargs"],
                chosen,
                idempotency_key=letter.get("idempotency_key"),
                replay_of=job_id,
                queue=letter["queue"] or None,
                priority=letter.get("priority"),
                **{name: value for name, value in (letter.get("workflow") or {}).items() if value},
            )
        except (TypeError, ValidationError) as error:
            raise ContractError(f"dead letter {job_id}: its payload does not fit the job any more: {error}") from error
        if result.id != chosen:
            raise ContractError(
                f"dead letter {job_id}: its key is in use by job {result.id}; replay when that has ended"
            )
    _remove(job_id, letter["queue"])
    return Submission(id=chosen, created=not sent)


def discard(job_id: str) -> None:
    """Forget it and free its key for a new job; raises NotADeadLetter."""
    letter = _stored(job_id)
    if key := letter.get("idempotency_key"):
        records().free(job_id, letter["job"], key)
    _remove(job_id, letter["queue"])


def _app() -> Any:
    from ..celery import app  # here, since the app's configuration needs the runtime

    return app


def _task(name: str) -> Any:
    return _app().tasks.get(name)


def _stored(job_id: str) -> dict[str, Any]:
    text = redis().get(f"dead:{job_id}") if is_job_id(job_id) else None
    if text is None:
        raise NotADeadLetter(f"there is no dead letter {job_id}")
    return loads(text)


def _payload(letter: dict[str, Any]) -> Any:
    """The payload as it was submitted, also where it does not fit the job any more."""
    args, kwargs = letter["args"], letter["kwargs"]
    if args is None:
        return letter.get("raw")
    parameter = getattr(_task(letter["job"]), "payload_parameter", None)
    if parameter:
        return kwargs.get(parameter, next(iter(args), None))
    return kwargs or args or None


def _remove(job_id: str, queue: str) -> None:
    if redis().zrem("dead", job_id):
        redis().delete(f"dead:{job_id}")
        redis().hincrby("dead:queues", queue, -1)
