"""Publish so that RabbitMQ has the message on its disk, or the caller hears that it has not.

Kombu's transport sends and hopes: a queue that was deleted, a full disk or a node that dies loses the message without a
word. Here each publish waits for the broker's confirm, and what fits no queue comes back. Queues are declared with
arguments of ours, and one that exists with others is refused in words. A message that is not due yet waits in Redis
(delays.py): RabbitMQ would hand it to a worker at once.
"""

from collections.abc import Sequence
from importlib.resources import files
from time import time
from typing import Any

import kombu.transport
from amqp import spec
from amqp.exceptions import AccessRefused, NotAllowed, PreconditionFailed, RecoverableConnectionError
from kombu.transport import pyamqp

from ..contract import BrokerUnavailable
from ..topology import ARGUMENTS
from . import delays
from .connection import REPLY_TIMEOUT

DECLARE_TIMEOUT = 10.0  # seconds; on a busy node a quorum queue takes some to be made
AFTER_EACH_STEP = (files(__package__ or "") / "backlog.lua").read_text(encoding="utf-8")


class Channel(pyamqp.Channel):
    """What ours does otherwise than kombu's."""

    def wait(self, method: Any, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """No answer may take longer than this; amqp would wait for ever."""
        patience = DECLARE_TIMEOUT if method == spec.Queue.DeclareOk else REPLY_TIMEOUT
        return super().wait(method, *args, timeout=timeout or patience, **kwargs)

    def queue_declare(self, queue: str = "", *args: Any, arguments: Any = None, **kwargs: Any) -> Any:
        """With our arguments, given here since Celery takes quorum queues for a wish for its delayed delivery."""
        try:
            return super().queue_declare(queue, *args, arguments=ARGUMENTS.get(queue, arguments), **kwargs)
        except PreconditionFailed as error:
            raise BrokerUnavailable(
                f"queue {queue} exists with other arguments than queues.py and DELIVERY_LIMIT give it "
                f"({error.reply_text}). Make these as they were, or stop the senders, let workers of the old "
                "configuration empty the queue, delete it (rabbitmqctl delete_queue), and start again"
            ) from error

    def basic_publish(self, msg: Any, exchange: str = "", routing_key: str = "", *_: Any, **__: Any) -> None:
        """Return when the broker has it; after RecoverableConnectionError kombu declares the queue and tries again."""
        to_a_queue = not exchange and routing_key in ARGUMENTS
        due = delays.due_time(msg.properties.get("application_headers", {}))
        if to_a_queue and due > time():
            return delays.park(msg, routing_key, due)
        returned: list[Exception] = []
        self.events["basic_return"] = {lambda error, *_: returned.append(error)}
        self.basic_publish_confirm(msg, exchange, routing_key, mandatory=to_a_queue, confirm_timeout=REPLY_TIMEOUT)
        if returned:
            raise RecoverableConnectionError(f"no queue {routing_key}: {returned[0]}")
        return None


class Connection(pyamqp.Connection):
    """Kombu's connection with our channel."""

    Channel = Channel


class Transport(pyamqp.Transport):
    """For amqp://."""

    Connection = Connection

    def establish_connection(self) -> Any:
        try:
            return super().establish_connection()
        except (AccessRefused, NotAllowed) as error:
            why = str(error.reply_text).partition(".")[0]
            mend = "Correct the user, the password or the virtual host in RABBITMQ_URL"
            raise BrokerUnavailable(f"RabbitMQ does not let us in ({why}). {mend}") from error

    def qos_semantics_matches_spec(self, connection: Any) -> bool:
        """To Celery: limit what each queue sends, not all together, which quorum queues and RabbitMQ 4 refuse."""
        return True


class SSLTransport(Transport, pyamqp.SSLTransport):
    """For amqps://."""


def renew(pipe: Any, delivery_tags: Sequence[str]) -> None:
    """Nothing: RabbitMQ leaves a message with its worker for as long as their connection lives."""


def hand_back(client: Any, delivery_tags: Sequence[str]) -> None:
    """Nothing: the messages go back when the connection ends, with the process."""


def bring_forward(job_id: str) -> None:
    """A job that was cancelled before it was due: what waits for it should not wait as long."""
    delays.bring_forward(job_id)


def install() -> None:
    """Let AMQP URLs use these transports."""
    kombu.transport.TRANSPORT_ALIASES.update(amqp=f"{__name__}:Transport", amqps=f"{__name__}:SSLTransport")
