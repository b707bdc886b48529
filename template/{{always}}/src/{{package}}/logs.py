"""One log format for everything in the process, so that a job's lines can be found by its id whoever wrote them.

Our records, the worker's, uvicorn's and any library's pass through one formatter: readable lines on a terminal, one
JSON object per line elsewhere (`LOG_FORMAT`). All go to stderr; stdout belongs to what a command was asked for. What is
bound by `structlog.contextvars` (the worker binds job_id, job, attempt, queue and trace_id) is in each record.
"""

import logging
import sys

import structlog

from .settings import settings


def configure() -> None:
    """Send all log records to stderr in the format and from the level that the settings say; may be called again."""
    config = settings()
    # No ExtraAdder: libraries put a job's arguments into `extra`, and payloads do not belong into logs.
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(config.log_format)],
        )
    )
    logging.basicConfig(handlers=[handler], level=config.log_level, force=True)


def _renderers(log_format: str) -> list[structlog.typing.Processor]:
    if log_format == "console" or (log_format == "auto" and sys.stderr.isatty()):
        # The default tracebacks show local variables, payloads and secrets included.
        formatter = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=formatter)]
    return [
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("message"),
        structlog.processors.JSONRenderer(default=str),
    ]
