"""The SDK's core, which is not Python: it logs through this service's logging, and repeats nothing ten times a second.

By default it writes to the terminal past every format and level, and while the server is away a line for each retry.
"""

import logging
import time
from functools import cache
from typing import Any

from temporalio.runtime import LogForwardingConfig, LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter

QUIET = 60.0  # seconds after a line in which the same part of the core logs no more of this level


class Repetitions(logging.Filter):
    """Lets through the first of each minute, by the part of the core and the level."""

    def __init__(self) -> None:
        super().__init__()
        self._at: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is logged."""
        what, now = (record.name, record.levelno), time.monotonic()
        if now - self._at.get(what, -QUIET) < QUIET:
            return False
        self._at[what] = now
        return True


def core(**options: Any) -> Runtime:
    """A core with these options of `TelemetryConfig` and `Runtime`."""
    logger = logging.getLogger("temporalio.core")
    if not logger.filters:
        logger.addFilter(Repetitions())
    forwarding = LogForwardingConfig(logger, append_target_to_name=True, prepend_target_on_message=False)
    log = LoggingConfig(TelemetryFilter(core_level="WARN", other_level="ERROR"), forwarding)
    return Runtime(telemetry=TelemetryConfig(logging=log, metrics=options.pop("metrics", None)), **options)


@cache
def shared_core() -> Runtime:
    """The one of a process that is no worker."""
    return core()
