"""What `doctor` asks of RabbitMQ and Redis: a queue of another kind than queues.py says, an address open to others."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from kombu.exceptions import OperationalError

from ..contract import BrokerUnavailable
from ..settings import is_loopback, settings
from . import redis


def check() -> Iterator[tuple[str, str, str]]:
    """Findings as (where, problem, mend)."""
    yield from redis.check()
    if (secret := settings().rabbitmq_url) is None:
        mend = "set it: amqp://user:password@host:5672/orders"
        yield "RABBITMQ_URL", "is not set: only `dev` and `demo` can start", mend
        return
    url = urlsplit(secret.get_secret_value())
    if url.scheme == "amqp" and not is_loopback(url.hostname):
        yield "RABBITMQ_URL", f"{url.hostname} hears the password in plain text", "use amqps://"
    if (url.username or "guest") == "guest" and not is_loopback(url.hostname):
        yield "RABBITMQ_URL", "guest is known to everybody", "make a user with a password for this service"
    from ..broker import declare, ping
    from ..runtime.connection import UNAVAILABLE
    from ..runtime.unserved import find_unserved

    try:
        declare()
        for name in sorted(find_unserved()):
            yield (
                f"queue {name}",
                "RabbitMQ lists it, but serves no consumer",
                f"declare it again: queues repair {name}",
            )
        ping()
    except BrokerUnavailable as differs:
        problem, _, mend = str(differs).partition(". ")
        yield "RabbitMQ", problem, mend
    except OperationalError as blocked:
        if "alarm" in str(blocked):
            yield "RabbitMQ", str(blocked), "free memory or disk on its node, or raise the limit"
    except UNAVAILABLE:  # not reachable from here
        return
