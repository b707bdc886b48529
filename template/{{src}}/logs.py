"""One log format for everything in the process, so that a job's lines can be found by its id whoever wrote them.

Our records, the worker's, uvicorn's and any library's pass through one formatter: readable lines on a terminal, one
JSON object per line elsewhere (`LOG_FORMAT`). All go to stderr; stdout belongs to what a command was asked for. What is
bound by `structlog.contextvars` (the worker binds job_id, job, attempt, queue and trace_id) is in each record.
With SENTRY_DSN each error is also reported to Sentry, or to whatever else takes its DSN.
"""

import logging
import re
import sys
from importlib import import_module
from typing import Any

import structlog
from pydantic_core import to_json

from .settings import settings

FLUSH_WITHIN = 2.0  # seconds that the end of a process waits for reports that are on their way
TAGS = ("job", "job_id", "attempt", "queue", "trace_id")
LONGEST = 65_536  # characters of a text in a record: an error may quote megabytes
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys instead of showing it; a caller's text could set its title, or hide what stands before it."""


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
    handlers: list[logging.Handler] = [handler]
    if config.sentry_dsn and (dsn := config.sentry_dsn.get_secret_value()):
        handlers.append(ErrorReports(dsn))
    logging.basicConfig(handlers=handlers, level=config.log_level, force=True)


def visible(text: str) -> str:
    """The text as it may go to a terminal: an escape as `\\x1b`."""
    return OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _renderers(log_format: str) -> list[structlog.typing.Processor]:
    # Not structlog's own tracebacks: they show local variables, payloads and secrets included.
    if log_format == "console" or (log_format == "auto" and sys.stderr.isatty()):
        return [
            structlog.processors.format_exc_info,
            _bounded,
            _on_one_line,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ]
    return [
        structlog.processors.format_exc_info,
        _bounded,
        structlog.processors.EventRenamer("message"),
        structlog.processors.JSONRenderer(_json),
    ]


def _bounded(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Keep the beginning and the end of a text of megabytes."""
    for name, text in event.items():
        if isinstance(text, str) and len(text) > LONGEST:
            event[name] = f"{text[: LONGEST // 2]}\n… ({len(text)} characters)\n{text[-LONGEST // 2 :]}"
    return event


def _on_one_line(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Whatever a text holds, it makes no second line that looks like a record; a traceback may."""
    for name, text in event.items():
        if isinstance(text, str):
            event[name] = visible(text if name in ("exception", "stack") else text.replace("\n", "\\n"))
    return event


def _json(event: structlog.typing.EventDict, **_: Any) -> str:
    try:
        return to_json(event, ensure_ascii=True, inf_nan_mode="strings", fallback=str).decode()
    except ValueError:  # half a surrogate pair, or bytes that are no text
        return to_json(
            {visible(name): visible(str(value)) for name, value in event.items()}, ensure_ascii=True
        ).decode()


class ErrorReports(logging.Handler):
    """Sends what is logged as an error, with the job that it is about.

    Neither payloads nor local variables are in it: they would leave the house.
    """

    def __init__(self, dsn: str) -> None:
        super().__init__(logging.ERROR)
        self.sentry = import_module("sentry_sdk")  # optional; settings.py has looked for it
        self.sentry.init(
            dsn,
            default_integrations=False,  # they hook into logging, the engine and HTTP, and send what they find there
            auto_enabling_integrations=False,
            include_local_variables=False,
            send_default_pii=False,
        )

    def emit(self, record: logging.LogRecord) -> None:
        """Send it in the background."""
        try:
            self.sentry.capture_event(self._event(record))
        except Exception:
            self.handleError(record)

    def _event(self, record: logging.LogRecord) -> dict[str, Any]:
        ours = record.msg if isinstance(record.msg, dict) else {}
        error = ours.get("exc_info") or (record.exc_info[1] if record.exc_info else None)
        known = {**structlog.contextvars.get_contextvars(), **ours}
        event: dict[str, Any] = {
            "level": record.levelname.lower().replace("critical", "fatal"),
            "logger": record.name,
            "logentry": {"formatted": str(ours.get("event") or record.msg)},  # arguments may hold a payload
            "tags": {name: str(known[name]) for name in TAGS if name in known},
        }
        if isinstance(error, BaseException):
            details, _ = self.sentry.utils.event_from_exception(error, self.sentry.get_client().options)
            event |= details
        return event

    def flush(self) -> None:
        """Called when the process ends."""
        self.sentry.flush(FLUSH_WITHIN)
