"""Watch the queues: serve the others where RabbitMQ does not serve one, declare it again, report what is wrong.

One queue that does not answer would keep a worker from all the others (runtime/unserved.py). Each worker asks for it
until it answers. A queue that RabbitMQ has lost for good (it serves the others, and counts no message there) one worker
deletes, declares and fills again: the records have its jobs.
"""

import time
from functools import partial
from threading import Thread
from typing import Any, cast

import structlog
from celery import bootsteps
from celery.worker import state
from kombu import Consumer

from ..celery import app
from ..queues import QUEUES
from ..runtime.connection import UNAVAILABLE, connect
from ..runtime.unserved import is_served
from ..settings import settings
from . import losses
from .deliveries import Stopped
from .repair import repair

log = structlog.get_logger(__name__)
LOOK_EVERY = 4.0  # seconds
COUNT_EVERY = (
    10.0  # seconds; a shortfall counts if two rounds find it, in between which each worker has noted what it holds
)
REPORTED_FOR = 45  # seconds that a problem is reported after the last round that found it


class QueueWatch(Thread):
    """The loop of one worker, for its present connection."""

    def __init__(self) -> None:
        super().__init__(name="queue-watch", daemon=True)
        self.client = connect()
        self.consumer: Any = None  # Celery's
        self.unserved: set[str] = set()  # by that consumer's connection
        self.since: dict[str, float] = {}  # a queue is not served
        self.counted_at, self.lost = 0.0, dict.fromkeys((queue.name for queue in QUEUES), 0)

    def run(self) -> None:
        while True:
            try:
                self.look()
            except UNAVAILABLE:
                pass  # RabbitMQ or Redis is away: the consumer reports it
            except Exception as error:  # whatever it is, the next look must come
                log.warning("queues not looked at", error=repr(error))
            time.sleep(LOOK_EVERY)

    def look(self) -> None:
        taken = [request for request in list(state.reserved_requests) if request not in state.active_requests]
        losses.note_held(self.client, self.consumer.hostname, [it.delivery_info["routing_key"] for it in taken])
        for name in sorted(self.unserved):
            self.ask_again(name)
        if time.monotonic() - self.counted_at > COUNT_EVERY and losses.my_turn(self.client):
            self.counted_at = time.monotonic()
            self.report_lost(losses.count_lost())

    def ask_again(self, name: str) -> None:
        """Consume from a queue that answers by now; declare it again if it has not for REPAIR_AFTER seconds."""
        if is_served(name):
            self.since.pop(name, None)
            losses.clear(self.client, name)
            log.info("queue is served again", queue=name)
            self.consumer.hub.call_soon(partial(self.consume, name))
            return
        problem = f"RabbitMQ lists it, but serves no consumer; `queues repair {name}` declares it again"
        if name not in self.since:
            log.error(f"queue {name}: {problem}", queue=name)
        since = self.since.setdefault(name, time.monotonic())
        losses.report(self.client, name, problem, REPORTED_FOR)
        after = settings().repair_after
        if after and time.monotonic() - since > after and losses.ready([name]) == {name: 0}:
            sent = repair(name)[name]
            log.warning("queue declared again", queue=name, jobs_sent_again=sent)

    def consume(self, name: str) -> None:
        """In the worker's event loop."""
        self.unserved.discard(name)
        for consumer in cast("list[Consumer]", [self.consumer.task_consumer, *Stopped.present]):
            for queue in [queue for queue in consumer.queues if queue.name == name]:
                consumer.cancel_by_queue(queue)
                consumer.add_queue(queue)
                consumer.consume()

    def report_lost(self, counts: dict[str, int]) -> None:
        for name, count in counts.items():
            before, self.lost[name] = self.lost[name], count
            if name in self.since:
                continue
            if lost := min(before, count):
                problem = (
                    f"{lost} jobs wait without a message in RabbitMQ; `queues repair {name}` sends or cancels them"
                )
                log.error(f"queue {name}: {problem}", queue=name)
                losses.report(self.client, name, problem, REPORTED_FOR)
            elif before:
                losses.clear(self.client, name)


class QueueStep(bootsteps.StartStopStep):
    """Starts the thread with the first consumer, and gives it each new connection."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    watch: QueueWatch | None = None

    def start(self, parent: Any) -> None:
        watch = QueueStep.watch or QueueWatch()
        watch.consumer, watch.unserved = parent, parent.connection.connection.unserved
        if QueueStep.watch is None:
            QueueStep.watch = watch
            watch.start()


cast("dict[str, set[type]]", app.steps)["consumer"].add(QueueStep)
