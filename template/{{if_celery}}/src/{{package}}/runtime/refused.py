"""Keep the messages that no worker can run: Celery logs pickled, truncated and unknown ones, acknowledges them, and they are gone."""

import hashlib
from typing import Any

from celery.worker.consumer import Consumer
from kombu import Message

from .dead_letters import record_refused
from .transport import UNDECODABLE


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
        if why == "unknown job":
            try:
                body = message.decode()
            except Exception as undecodable:
                why, error = "undecodable", undecodable
        if message.content_type == UNDECODABLE:
            error = ValueError("the text in the queue is not a message")
        if isinstance(body, bytes | memoryview):
            body = bytes(body).decode("utf-8", "backslashreplace")
        job_id = headers.get("id") or "undecodable-" + hashlib.sha1(str(body).encode()).hexdigest()
        queue = (message.delivery_info or {}).get("routing_key") or ""
        record_refused(job_id, headers.get("task") or "", queue, why, f"{type(error).__name__}: {error}", body)
