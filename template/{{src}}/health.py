"""A worker's own sign of life: a file and a port, so that a probe asks nothing of the broker.

A probe through the broker costs a second of CPU each time, fails on a busy worker or finds a dead one healthy; and it
restarts every healthy worker when the broker is away. Whether jobs flow is asked of the API instead (/health/jobs).
"""

import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from .contract import Health, QueueStatus, ScheduleStatus, WorkerStatus
from .queues import QUEUES
from .settings import settings

ALIVE = 60.0  # seconds without a sign of life after which a process is taken for dead


def heartbeat_file(name: str) -> Path:
    """Where the process of this name (`name` or `name@host`) leaves its sign of life."""
    return settings().run_dir / f"{name.partition('@')[0]}.alive"


def beat(name: str) -> None:
    """Leave a sign of life."""
    path = heartbeat_file(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def worker_alive(name: str) -> bool:
    """Whether that process has left a sign of life within the last minute."""
    try:
        return time.time() - heartbeat_file(name).stat().st_mtime < ALIVE
    except FileNotFoundError:
        return False


def serve(name: str, host: str, port: int, ready: Callable[[], bool]) -> None:
    """Answer /health/live and /health/ready on a port of the worker's own, in a thread."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            checks = {"/health/live": lambda: worker_alive(name), "/health/ready": ready}
            check = checks.get(self.path)
            self.send_response(404 if check is None else 200 if check() else 503)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Probes are not worth a log line."""

    threading.Thread(
        target=ThreadingHTTPServer((host, port), Handler).serve_forever, name="health", daemon=True
    ).start()


def judge(
    workers: Sequence[WorkerStatus], queues: Sequence[QueueStatus], schedules: Sequence[ScheduleStatus]
) -> Health:
    """Whether jobs flow: a live worker on every queue, backlogs within their limits, schedules that fire."""
    reasons, limits = [], {queue.name: queue for queue in QUEUES}
    for queue in queues:
        limit = limits[queue.name]
        if not queue.workers:
            reasons.append(f"queue {queue.name} has no live worker")
        if queue.depth > limit.max_depth:
            reasons.append(f"queue {queue.name} holds {queue.depth} jobs, more than {limit.max_depth}")
        if queue.oldest_age > limit.max_age:
            waited = f"{queue.oldest_age:.0f} s, over {limit.max_age:g}"
            reasons.append(f"queue {queue.name}: its oldest job has waited {waited}")
    for schedule in schedules:
        if schedule.problem:
            reasons.append(f"schedule {schedule.name} cannot fire: {schedule.problem}")
        elif schedule.silent:
            late = time.time() - (schedule.next_run_at or 0)
            reasons.append(f"schedule {schedule.name} should have fired {late:.0f} s ago")
    return Health(ok=not reasons, broker=True, workers=list(workers), reasons=reasons)
