"""The scheduler process: Celery beat with its memory in Redis, so that two of them fire once and a new one misses nothing.

Beat keeps the last run in a local file: a second beat doubles every job, a new container forgets. Here each firing is
submitted under a key made of the schedule's last run, which every scheduler reads from Redis: whoever comes second gets the
first one's job. Each turn leaves a sign of life; `silent` in schedules and metrics tells when firings stop.
"""

import json
import time
from threading import Thread
from typing import Any

import structlog
from celery.beat import Scheduler
from kombu.exceptions import OperationalError

from ..settings import settings
from . import health
from .app import app
from .connection import UNAVAILABLE, redis
from .results import large_results
from .schedules import STATE, Schedule, declared, state

log = structlog.get_logger(__name__)
SWEEP = 3600.0  # seconds between removals of expired large results


def run_scheduler() -> None:
    """Fire schedules until SIGTERM."""
    settings().require_redis_url()
    app.start(["beat", f"--loglevel={settings().log_level}", "--pidfile="])


class RedisScheduler(Scheduler):
    """For the setting `beat_scheduler`."""

    swept_at = 0.0

    def setup_schedule(self) -> None:
        self.declared = declared()

    def tick(self, *_: Any, **__: Any) -> float:
        """Fire what is due; answers the seconds until the next look."""
        health.beat("scheduler")
        try:
            stored = state()
            waits = [self._look(schedule, stored.get(schedule.name, {})) for schedule in self.declared]
        except (*UNAVAILABLE, OperationalError) as error:
            log.warning("Redis does not answer, schedules wait", error=str(error))
            return 1.0
        if time.time() - self.swept_at > SWEEP:
            self.swept_at = time.time()
            Thread(target=large_results().delete_older_than, args=[settings().result_ttl], daemon=True).start()
        return max(0.0, min([1.0, *waits]))

    def _look(self, schedule: Schedule, seen: dict[str, Any]) -> float:
        last = seen.get("last_run_at") or seen.get("since")
        if last is None:
            redis().hsetnx(STATE, schedule.name, json.dumps({"since": time.time()}))
            return 0.0
        due = schedule.due_after(last)
        if due > time.time():
            return due - time.time()
        result, created = schedule.job.send(
            kwargs=schedule.payload,
            idempotency_key=schedule.key or f"{schedule.name}@{due:.3f}",
            restart=schedule.key is not None,
        )
        seen = {"last_run_at": due if isinstance(schedule.when, float) else time.time(), "runs": seen.get("runs", 0) + 1}
        redis().hset(STATE, schedule.name, json.dumps(seen))
        log.info("schedule fired", schedule=schedule.name, job_id=result.id, new=created)
        return 0.0
