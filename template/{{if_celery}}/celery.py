"""The Celery application, configured so that a crash loses nothing and a message can do no harm.

The defaults acknowledge early (a crash loses the job), publish without a bound (a frozen broker hangs the caller) and
make a queue out of every typo.
"""

import gc
import math
import ssl
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from logging import getLogger
from typing import Any

from billiard.util import get_logger as pool_logger
from celery import Celery
from celery.signals import celeryd_init, setup_logging, worker_before_create_process
from kombu import Queue

from . import broker
from .logs import configure
from .queues import DEFAULT_QUEUE, QUEUES
from .runtime import serializer, transport
from .runtime.connection import CONNECT_TIMEOUT, REPLY_TIMEOUT
from .runtime.routing import job_modules, route
from .settings import settings

serializer.install()
transport.install()

RUNTIME = f"{__package__}.runtime"
URL = secret.get_secret_value() if (secret := settings().redis_url) else ""
BACKEND = "SentinelJobBackend" if URL.startswith("sentinel") else "JobBackend"
TLS = {"ssl_cert_reqs": ssl.CERT_REQUIRED} if URL.startswith("rediss") else None
EVENTS = f"{__package__}.ops.events:Events" if find_spec(".ops.events", __package__) else None  # Flower was chosen


def route_task(
    name: str, args: Any, kwargs: Any, options: Mapping[str, Any], task: Any = None, **_: Any
) -> dict[str, Any]:
    """For a task sent without a queue: the first fitting one of `RULES`, else the job's own, else the default."""
    if rule := route(name, lambda: task.payload(args, kwargs) if task else kwargs):
        return {"queue": rule.queue, "priority": rule.priority}
    return {"queue": getattr(task, "job_queue", None) or DEFAULT_QUEUE}


app = Celery(__package__, task_cls=f"{RUNTIME}.task:JobTask", control=f"{RUNTIME}.control:JobControl", events=EVENTS)
app.conf.update(
    result_backend=f"{RUNTIME}.results:{BACKEND}+{URL}" if URL else None,
    redis_backend_use_ssl=TLS,
    # JSON only, in both directions
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    enable_utc=True,
    timezone="UTC",
    # nothing is lost: acknowledged when done, back to the queue when its process dies
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_soft_time_limit=settings().soft_limit,
    task_time_limit=settings().hard_limit,
    worker_max_memory_per_child=settings().worker_max_memory_per_child,
    worker_max_tasks_per_child=settings().worker_max_tasks_per_child,
    include=job_modules(),
    # queues
    task_routes=(route_task,),
    task_queues=[Queue(queue.name, routing_key=queue.name) for queue in QUEUES],
    task_default_queue=DEFAULT_QUEUE,
    task_create_missing_queues=False,
    task_default_priority=5,
    **broker.CONFIGURATION,
    task_publish_retry_policy={"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1},
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    worker_cancel_long_running_tasks_on_connection_loss=False,  # leases outlive a reconnect
    # results
    result_expires=settings().result_ttl,
    redis_socket_timeout=REPLY_TIMEOUT,
    redis_socket_connect_timeout=CONNECT_TIMEOUT,
    result_backend_always_retry=True,
    result_backend_max_retries=math.inf,
    result_backend_max_sleep_between_retries_ms=1000,
    result_backend_transport_options={"master_name": settings().sentinel_master},
    # a custom consumer keeps what Celery would drop; a custom root logger is ours to set up
    worker_consumer=f"{RUNTIME}.dead_letters:JobConsumer",
    worker_send_task_events=EVENTS is not None,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    worker_proc_alive_timeout=30.0,
    beat_scheduler=f"{__package__}.ops.schedules:JobScheduler",
    beat_max_loop_interval=1.0,
)


@setup_logging.connect
def _logging(**_: object) -> None:
    configure()
    # Both log payloads; how a run ended is told by telemetry.py.
    getLogger("celery.worker.strategy").setLevel("WARNING")
    getLogger("celery.app.trace").setLevel("CRITICAL")
    pool_logger().setLevel("WARNING")  # made here, or the pool tells nobody why it replaces a process
    pool_logger().propagate = True


@celeryd_init.connect
def _worker(**_: object) -> None:
    """What only a worker needs, also one started by `celery -A … worker`."""
    import_module(f"{__package__}.ops.worker")


@worker_before_create_process.connect
def _before_a_pool_process(**_: object) -> None:
    """What it inherits is left out of its garbage collections, which would copy it page by page: 31 MB, not 9."""
    gc.collect()
    gc.freeze()
