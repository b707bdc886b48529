"""What workers tell Flower of a job: name, state, times, retries and errors, never its arguments and result.

Celery's events carry both in clear text, to whoever listens at the broker, and Flower keeps them in a file. Here they
end where logs do: what a job works on is shown by the API alone, to holders of a token.
"""

from typing import Any

from celery.app import events
from celery.events import EventDispatcher

PAYLOAD = {"args", "kwargs", "result"}
HIDDEN = "(not shown)"


class Dispatcher(EventDispatcher):
    """Celery's, without payloads."""

    def send(self, type: str, *args: Any, **fields: Any) -> Any:
        return super().send(type, *args, **_without_payload(fields))

    def publish(self, type: str, fields: dict[str, Any], *args: Any, **options: Any) -> Any:
        return super().publish(type, _without_payload(fields), *args, **options)


class Events(events.Events):
    """For `Celery(events=…)`."""

    dispatcher_cls = f"{__name__}:Dispatcher"


def _without_payload(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: HIDDEN if name in PAYLOAD else value for name, value in fields.items()}
