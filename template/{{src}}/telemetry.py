"""One id from the request through a job, its attempts and its children: in each log line, so that one search shows the
whole story; and in spans, if the service has tracing.py (the choice OpenTelemetry) and its environment wants them.
"""

import logging
import os
import time
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars, get_contextvars

log = structlog.get_logger(__name__)
LEVELS = {  # of the line that tells of each outcome; of what has run to its end, INFO
    **dict.fromkeys(("dead", "timed_out", "refused"), logging.ERROR),
    **dict.fromkeys(("retried", "lost"), logging.WARNING),
    "snoozed": logging.DEBUG,  # a thousand jobs may wait for one rate limit
}


def _find_tracing() -> ModuleType | None:
    if not any(name.startswith("OTEL_") for name in os.environ):
        return None  # spans cost nothing unless somebody asks for them
    found = find_spec(".tracing", __package__)
    module = import_module(".tracing", __package__) if found and found.origin else None
    return module if module and module.wanted() else None


tracing = _find_tracing()


class Run:
    """One attempt of a job. Its end is one line in the log, the same on every stack, with the outcome that counts."""

    def __init__(
        self,
        system: str,
        job: str,
        queue: str,
        job_id: str,
        attempt: int,
        carried: Mapping[str, Any],
        began: float | None = None,
        error: BaseException | None = None,
    ) -> None:
        """`began` (monotonic) and `error` are given where another process tells of a run whose own is gone."""
        self.began = time.monotonic() if began is None else began
        self.error = error
        self.over = False
        self.span = (
            tracing.Process(system, job, queue, job_id, attempt, carried, self.began, current=began is None)
            if tracing
            else None
        )
        clear_contextvars()  # of the run before; this one's stay for what is logged after its end
        trace_id = self.span.trace_id if self.span else carried["trace_id"]
        self.about = {"job_id": job_id, "job": job, "attempt": attempt, "queue": queue, "trace_id": trace_id}
        bind_contextvars(**self.about)

    def failed(self, error: BaseException) -> None:
        """What it raised; whether that is its end, `ended` tells."""
        self.error = error

    def ended(self, outcome: str, **details: Any) -> None:
        """Its end has been written down; the first one counts."""
        if self.over:
            return
        self.over = True
        if self.span:
            self.span.ended(outcome, self.error)
        level = LEVELS.get(outcome, logging.INFO)
        if not log.is_enabled_for(level):
            return
        # `about` is bound in the job's own context only, and another task or thread may give it up
        shown = {**self.about, **{name: value for name, value in details.items() if value is not None}}
        if level == logging.ERROR and self.error:
            shown["exc_info"] = self.error
        log.log(level, f"job {outcome}", seconds=round(time.monotonic() - self.began, 3), **shown)


def carried() -> dict[str, str]:
    """What a job that is sent here takes along: the trace id of the request or job that sends it, else a new one."""
    if tracing and (current := tracing.current()):
        return current
    return {"trace_id": get_contextvars().get("trace_id") or uuid.uuid4().hex}


@contextmanager
def sending(system: str, job: str, queue: str, job_id: str, *, delayed: bool = False) -> Generator[dict[str, str]]:
    """While a job is sent: what it takes along. A delayed one is the start of a trace of its own."""
    if tracing:
        with tracing.sending(system, job, queue, job_id, delayed=delayed, trace_id=carried()["trace_id"]) as taken:
            yield taken
    else:
        yield carried()


def leave() -> None:
    """Before `os._exit` or a kill, which run no exit handlers: hand over what this process still keeps."""
    if tracing:
        tracing.shutdown()
    logging.shutdown()
