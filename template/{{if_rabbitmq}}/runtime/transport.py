"""Publish so that RabbitMQ has the message on its disk, or the caller hears that it has not.

Kombu's transport sends and hopes: a queue that was deleted, a full disk or a node that dies loses the message without a
word. Here each publish waits for the broker's confirm, and what fits no queue comes back. Queues are declared with
arguments of ours, and one that exists with others is refused in words. A message that is not due yet waits in Redis
(delays.py): RabbitMQ would hand it to a worker at once.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from importlib.resources import files
from time import time
from typing import Any

import kombu.transport
from amqp import spec
from amqp.exceptions import AccessRefused, NotAllowed, PreconditionFailed, RecoverableConnectionError
from kombu.exceptions import OperationalError
from kombu.transport import pyamqp

from ..contract import BrokerUnavailable
from ..topology import ARGUMENTS
from . import delays, unserved
from .connection import REPLY_TIMEOUT

DECLARE_TIMEOUT = 10.0  # seconds; on a busy node a quorum queue takes some to be made, without a leader 5 to be deleted
AFTER_EACH_STEP = (files(__package__ or "") / "backlog.lua").read_text(encoding="utf-8")


class LoginRefusedError(BrokerUnavailable):
    """RabbitMQ refuses the user, the password or the virtual host."""


class Channel(pyamqp.Channel):
    """What ours does otherwise than kombu's."""

    def wait(self, method: Any, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """No answer may take longer than this; amqp would wait for ever."""
        slow = method in (spec.Queue.DeclareOk, spec.Queue.DeleteOk)
        try:
            patience = timeout or (DECLARE_TIMEOUT if slow else REPLY_TIMEOUT)
            return super().wait(method, *args, timeout=patience, **kwargs)
        except TimeoutError:
            if method == spec.Basic.ConsumeOk:
                unserved.doubted.add("all")
            raise

    def basic_consume(self, queue: str = "", *args: Any, **kwargs: Any) -> Any:
        """Leave out a queue that would not answer: this channel would wait, and no other queue of it be served."""
        return None if queue in self._live.unserved else super().basic_consume(queue, *args, **kwargs)

    @property
    def _live(self) -> "Connection":
        if self.connection is None:
            raise RecoverableConnectionError("the connection has been closed")
        return self.connection

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
        if to_a_queue:
            msg.properties.pop("expiration", None)  # RabbitMQ would drop it without a word; a worker ends its job
        due = delays.due_time(msg.properties.get("application_headers", {}))
        if to_a_queue and due > time():
            return delays.park(msg, routing_key, due)
        connection = self._live
        connection.refuse_if_blocked()
        returned: list[Exception] = []
        self.events["basic_return"] = {lambda error, *_: returned.append(error)}
        options = {"mandatory": to_a_queue, "confirm_timeout": REPLY_TIMEOUT}
        connection.publishing = True
        try:
            self.basic_publish_confirm(msg, exchange, routing_key, **options)
        except (TimeoutError, OperationalError):
            connection.collect()  # a late confirm would be taken for that of the next message
            raise
        finally:
            connection.publishing = False
        if returned:
            raise RecoverableConnectionError(f"no queue {routing_key}: {returned[0]}")
        return None


class Connection(pyamqp.Connection):
    """Kombu's connection with our channel; it knows when RabbitMQ takes no messages, and which queues do not answer."""

    Channel = Channel
    blocked = publishing = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, on_blocked=self._block, on_unblocked=self._unblock, **kwargs)

    def _block(self, _: str) -> None:
        self.blocked = True
        if self.publishing:
            self.refuse()

    def _unblock(self) -> None:
        self.blocked = False

    def refuse(self) -> None:
        raise OperationalError(
            "RabbitMQ takes no messages: an alarm of its memory or disk (rabbitmq-diagnostics alarms)"
        )

    def close(self, *args: Any, **kwargs: Any) -> Any:
        """Without a good-bye while blocked: RabbitMQ would answer it when the alarm is over."""
        return self.collect() if self.blocked else super().close(*args, **kwargs)

    def refuse_if_blocked(self) -> None:
        """Raise OperationalError during an alarm: RabbitMQ would read what is sent now when it is over, hours later."""
        with suppress(TimeoutError):
            while True:
                self.drain_events(timeout=0)  # only what has arrived
        if self.blocked:
            self.refuse()

    @cached_property
    def unserved(self) -> set[str]:
        """The queues that did not answer when this connection was to consume first; one that answers is taken out."""
        return unserved.find_unserved()


class Transport(pyamqp.Transport):
    """For amqp://."""

    Connection = Connection

    def establish_connection(self) -> Any:
        try:
            return super().establish_connection()
        except (AccessRefused, NotAllowed) as error:
            why = str(error.reply_text).partition(".")[0]
            mend = "Correct the user, the password or the virtual host in RABBITMQ_URL"
            raise LoginRefusedError(f"RabbitMQ does not let us in ({why}). {mend}") from error

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
