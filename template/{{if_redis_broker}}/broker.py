"""The broker as Celery must see it: Redis or Valkey, its queues read in their order, a crash made good within seconds.

Celery's defaults read queues in turn, and leave the jobs of a killed worker for an hour.
"""

import ssl
from typing import Any

from .runtime.connection import CONNECT_TIMEOUT, REPLY_TIMEOUT, redis
from .settings import settings

URL = secret.get_secret_value() if (secret := settings().redis_url) else ""

CONFIGURATION: dict[str, Any] = {
    "broker_url": URL or None,
    "broker_connection_timeout": CONNECT_TIMEOUT,
    "broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_REQUIRED} if URL.startswith("rediss") else None,
    "broker_transport_options": {
        "visibility_timeout": settings().lease,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": 5,  # seconds; a worker killed while it looked must not stop the others for minutes
        "priority_steps": list(range(10)),
        "sep": ":",
        "queue_order_strategy": "priority",
        "socket_timeout": REPLY_TIMEOUT,
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "health_check_interval": 3,  # seconds; kombu's 25 leave a worker for 51 on a connection that nothing comes by
        "master_name": settings().sentinel_master,
    },
}


def require() -> None:
    """Raise NotConfigured, with what to do, if an address is missing."""
    settings().require_redis_url()


def ping() -> None:
    """Return if the broker answers; else one of UNAVAILABLE is raised."""
    redis().ping()
