"""Find the queues that RabbitMQ lists but does not serve, before a consumer waits for one of them.

A quorum queue without a leader (its node was killed seconds after it was declared, or most of its nodes are away) is
declared as if all were well, but the channel that consumes from it gets no answer, and with it no other queue.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from amqp.exceptions import NotFound
from kombu.transport import pyamqp

from ..topology import ARGUMENTS

doubted: set[str] = set()  # "all", once a consumer got no answer although each queue seemed to be served
QUORUM_QUEUES = [name for name, arguments in ARGUMENTS.items() if arguments.get("x-queue-type") == "quorum"]


def find_unserved(names: Iterable[str] = QUORUM_QUEUES) -> set[str]:
    """Those of these queues that do not answer; raises one of UNAVAILABLE if RabbitMQ itself does not."""
    wanted = [*names]
    with ThreadPoolExecutor(max(1, len(wanted))) as pool:
        return {name for name, served in zip(wanted, pool.map(is_served, wanted), strict=True) if not served}


def is_served(name: str) -> bool:
    """Whether a consumer of this queue gets an answer, asked over a connection of its own: the question may hang."""
    from ..celery import app  # here, since the app's configuration needs the transport

    connection = app.connection_for_write()
    try:
        channel = connection.default_channel
        try:
            if channel.queue_declare(name, passive=True).message_count and not doubted:
                return True  # as a rule only one that is served counts them; a consumer might take one
            channel.basic_qos(0, 1, False)
            pyamqp.Channel.basic_consume(channel, name, callback=lambda _: None)  # what arrives goes back at once
        except NotFound:
            return True  # whoever uses it next declares it
        except TimeoutError:
            return False
        return True
    finally:
        connection.collect()  # without the good-bye, which would hang, too
