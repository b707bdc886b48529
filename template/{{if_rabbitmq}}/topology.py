"""The queues as RabbitMQ has them: declared by us, since those that Celery makes would lose what we promise."""

from typing import Any

from .queues import QUEUES
from .settings import settings

STOPPED = "stopped"  # the queue of messages that the broker itself gave up

# Priorities 0–9 need a classic queue, which lives on one node. A quorum queue is copied to several nodes and counts
# deliveries, but serves in order of arrival (from RabbitMQ 4 on, 5–9 before 0–4).
PRIORITIES = {"x-max-priority": 9}
COPIED = {
    "x-queue-type": "quorum",
    "x-delivery-limit": settings().delivery_limit,
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": STOPPED,
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",  # which that strategy asks for
}
ARGUMENTS: dict[str, dict[str, Any]] = {queue.name: PRIORITIES if queue.priorities else COPIED for queue in QUEUES}
ARGUMENTS[STOPPED] = {"x-queue-type": "quorum"}
