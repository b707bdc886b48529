"""What a worker on RabbitMQ does beside its jobs: send on what has become due, and keep what the broker gave up.

A quorum queue drops a message that came back too often (`delivery_limit`, far above our own `max_deliveries`: for what
our own count does not see). That would be a lost job; here it becomes a dead letter that can be replayed.
"""

import time
from contextlib import suppress
from threading import Thread
from typing import Any, ClassVar, cast

import structlog
from celery import bootsteps
from celery.app.task import Context
from kombu import Consumer, Message, Queue

from .. import broker
from ..celery import app
from ..contract import FINAL
from ..runtime import delays
from ..runtime.connection import UNAVAILABLE, connect
from ..runtime.dead_letters import JobConsumer
from ..runtime.record import records
from ..runtime.retry import PoisonError
from ..runtime.transport import LoginRefusedError
from ..topology import STOPPED

log = structlog.get_logger(__name__)
LOOK_EVERY = 1.0  # seconds at most between two looks
REFUSED_FOR = 60.0  # seconds
LATE = 0.15  # seconds by which Redis, looking ten times a second, may end a wait too late
SHORT = 0.02  # seconds between looks when something is due sooner


class Topology(bootsteps.Step):
    """Makes the queues; a worker does not start on one that exists with other arguments (BrokerUnavailable)."""

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        with suppress(*UNAVAILABLE):  # Celery waits for a broker that is not there yet
            broker.declare()


class Login(bootsteps.Step):
    """Waits where RabbitMQ refuses the login of a running worker, and ends it after REFUSED_FOR seconds.

    A password or a virtual host is often right again soon. If it is not, whoever starts the worker again starts it with
    the present one.
    """

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        parent.connection_errors = (*parent.connection_errors, LoginRefusedError)
        self.report = parent.on_connection_error_before_connected
        self.first_refusal = self.latest_refusal = 0.0
        parent.on_connection_error_before_connected = self.wait

    def wait(self, error: Exception) -> None:
        self.report(error)
        if isinstance(error, LoginRefusedError):
            now = time.monotonic()
            if now - self.latest_refusal > REFUSED_FOR:
                self.first_refusal = now  # one of an earlier time, which is over
            if now - self.first_refusal > REFUSED_FOR:
                raise error
            self.latest_refusal = now
            time.sleep(LOOK_EVERY)


class Stopped(bootsteps.ConsumerStep):
    """Makes a dead letter of each message in the queue STOPPED."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    present: ClassVar[list[Consumer]] = []  # of the present connection

    def get_consumers(self, channel: Any) -> list[Consumer]:
        Stopped.present = [Consumer(channel, [Queue(STOPPED)], on_message=self._keep, prefetch_count=1)]
        return Stopped.present

    def start(self, c: Any) -> None:
        self.timer = c.timer
        super().start(c)

    def _keep(self, message: Message) -> None:
        try:
            keep(message)
        except UNAVAILABLE as error:
            log.warning("Redis does not answer, a stopped message waits", error=str(error))
            self.timer.call_after(LOOK_EVERY, message.requeue)
            return
        except Exception as error:  # nothing that we sent
            JobConsumer.keep(message, "undecodable", error)
        message.ack()


def keep(message: Message) -> None:
    """End the job of this message as one that was delivered too often."""
    [death, *_] = message.headers["x-death"]
    args, kwargs, embedded = message.decode()
    info = {"routing_key": death["queue"], "priority": message.properties.get("priority")}
    request = Context(message.headers, args=args, kwargs=kwargs, delivery_info=info, reason="poison", **embedded)
    if records().field(str(request.id), "state") in FINAL:  # it came once more after its end
        app.backend.repeat_end(request)
        return
    error = PoisonError(f"stopped by the broker: {death['reason']} (DELIVERY_LIMIT) on queue {death['queue']}")
    app.backend.mark_as_failure(request.id, error, traceback="", request=request)


class DelayKeeper(Thread):
    """Sends delayed messages to their queues when they are due; any worker does so for all queues."""

    def __init__(self) -> None:
        super().__init__(name="delay-keeper", daemon=True)
        self.client = connect()

    def run(self) -> None:
        while True:
            try:
                pause = self.look()
                if pause > LATE:
                    self.client.blpop([delays.WAKE], timeout=pause - LATE)
                else:
                    time.sleep(min(max(0.0, pause), SHORT))
            except Exception as error:  # whatever it is, delayed jobs must go on when it is over
                log.warning("delayed jobs not sent on", error=repr(error))
                time.sleep(LOOK_EVERY)

    def look(self) -> float:
        """Send what is due; answers the seconds until the next look."""
        due, following = delays.take(self.client, time.time())
        refused: set[str] = set()
        for message in due:
            if message.queue in refused:
                continue  # it is tried again when MOVING is over
            try:
                self.send(message)
            except UNAVAILABLE as error:
                refused.add(message.queue)
                log.warning("delayed jobs not sent on", queue=message.queue, error=repr(error))
            else:
                delays.sent(self.client, message)
        return min(LOOK_EVERY, following - time.time()) if following else LOOK_EVERY

    @staticmethod
    def send(message: delays.Due) -> None:
        options = {"retry": True, "retry_policy": app.conf.task_publish_retry_policy, **message.properties}
        headers = dict(message.properties["application_headers"])
        del options["application_headers"]
        if delays.due_time(headers) > time.time():  # brought forward: it must not be parked again
            headers["eta"] = None
        with app.producer_or_acquire() as producer:
            producer.publish(
                message.body, routing_key=message.queue, headers=headers, declare=[Queue(message.queue)], **options
            )


class DelayStep(bootsteps.StartStopStep):
    """Starts the thread with the first consumer."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    keeper: DelayKeeper | None = None

    def start(self, parent: Any) -> None:
        if DelayStep.keeper is None:
            DelayStep.keeper = DelayKeeper()
            DelayStep.keeper.start()


steps = cast("dict[str, set[type]]", app.steps)
steps["worker"].add(Topology)
steps["consumer"] |= {Login, Stopped, DelayStep}
