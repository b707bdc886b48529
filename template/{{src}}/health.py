"""A worker's own sign of life: a file and a port, so that a probe asks nothing of the broker.

A probe through the broker costs a second of CPU each time, fails on a busy worker or finds a dead one healthy; and it
restarts every healthy worker when the broker is away. Whether jobs flow is asked of the API instead (/health/jobs).
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryFile

from .contract import Health, QueueStatus, ScheduleStatus, WorkerStatus
from .queues import QUEUES
from .settings import NotConfigured, settings

ALIVE = 60.0  # seconds without a sign of life after which a process is taken for dead

log = logging.getLogger(__name__)  # structlog would take longer to load than a probe may
_beats: dict[str, float] = {}  # when each of this process's names last beat (monotonic)
_unwritable: set[Path] = set()  # heartbeat files whose failure is logged


def require_run_dir() -> None:
    """Raise NotConfigured, with what to do, if heartbeat files cannot be written."""
    folder = settings().run_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
    except OSError as error:
        raise NotConfigured(
            f"RUN_DIR={folder} cannot be written ({error.strerror}), and probes look there for the heartbeat file. "
            "Set RUN_DIR to a writable folder; with a read-only root file system, mount a volume (an emptyDir) there."
        ) from error


def heartbeat_file(name: str) -> Path:
    """Where the process of this name (`name` or `name@host`) leaves its sign of life."""
    return settings().run_dir / f"{name.partition('@')[0]}.alive"


def beat(name: str) -> None:
    """Leave a sign of life. A file that cannot be written is logged once, never raised: the caller renews leases."""
    _beats[name] = time.monotonic()
    path = heartbeat_file(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        if path not in _unwritable:
            _unwritable.add(path)
            log.error("heartbeat file not written, probes of it fail within a minute: %s", error)
    else:
        _unwritable.discard(path)


def leave(name: str) -> None:
    """Remove the sign of life of a process that ends."""
    with suppress(OSError):
        heartbeat_file(name).unlink(missing_ok=True)


def worker_alive(name: str) -> bool:
    """Whether that process has left a sign of life within the last minute."""
    try:
        return time.time() - heartbeat_file(name).stat().st_mtime < ALIVE
    except OSError:
        return False


def serve(name: str, host: str, port: int, ready: Callable[[], bool]) -> None:
    """Answer /health/live and /health/ready on a port of the worker's own, in a thread.

    /health/live needs no file: a worker whose disk is full is alive.
    """

    def live() -> bool:
        return time.monotonic() - _beats.get(name, -ALIVE) < ALIVE

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            checks = {"/health/live": live, "/health/ready": ready}
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
        if queue.problem:
            reasons.append(f"queue {queue.name}: {queue.problem}")
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
