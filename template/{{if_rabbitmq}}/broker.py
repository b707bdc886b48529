"""The broker as Celery must see it: RabbitMQ, its queues declared by us, each of the kind that its jobs need.

Left to itself Celery makes classic queues without priorities, and publishes into a queue whether it is there or not.
What is no message (records, results, locks, delayed jobs) is in Redis or Valkey.
"""

import ssl
from importlib import import_module
from typing import Any

from amqp import Message
from celery.signals import celeryd_init
from kombu import Queue

from .runtime.connection import REPLY_TIMEOUT, redis
from .settings import settings
from .topology import ARGUMENTS, STOPPED

URL = secret.get_secret_value() if (secret := settings().rabbitmq_url) else ""
RETRIES: dict[str, Any] = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}
TLS = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None}  # None: the host of the URL, which is then checked

CONFIGURATION: dict[str, Any] = {
    "broker_url": URL or None,
    "broker_use_ssl": TLS if URL.startswith("amqps") else None,
    "broker_transport_options": RETRIES,  # when a channel is opened; kombu would try for ever
    "broker_connection_timeout": REPLY_TIMEOUT,  # seconds for each step of the handshake
    "broker_channel_error_retry": True,  # RabbitMQ closes a channel (CONSUMER_TIMEOUT): the worker stays
    "broker_heartbeat": 10,  # seconds; a worker that is silent for two of them loses its messages to the others
}


def require() -> None:
    """Raise NotConfigured, with what to do, if an address is missing."""
    settings().require_rabbitmq_url()
    settings().require_redis_url()


def ping() -> None:
    """Return if RabbitMQ takes messages and Redis answers; else one of UNAVAILABLE is raised."""
    from .celery import app  # here, since the app's configuration needs this module

    redis().ping()
    with app.pool.acquire(block=True, timeout=REPLY_TIMEOUT) as connection:

        def ask() -> None:
            channel = connection.default_channel
            channel.basic_publish(Message(""), routing_key="amq.ping")  # no such queue: RabbitMQ confirms and drops it
            channel.connection.refuse_if_blocked()  # only to a connection that has sent something is an alarm reported

        connection.ensure(connection, ask, **RETRIES)()  # once more, if the pooled connection has died meanwhile


def declare() -> None:
    """Make the queues that are not there; raises BrokerUnavailable for one that exists with other arguments."""
    from .celery import app

    with app.connection_for_write() as connection:
        for name in sorted(ARGUMENTS, key=lambda name: name != STOPPED):  # that one first: the others send to it
            Queue(name).bind(connection.default_channel).declare()


@celeryd_init.connect
def _worker(**_: object) -> None:
    """What only a worker needs."""
    import_module(f"{__package__}.ops.deliveries")
    import_module(f"{__package__}.ops.queue_watch")
