"""Spans by OpenTelemetry: `send {queue}` where a job is sent, `process {job}` for each attempt, all in one trace.

The engines' instrumentations tell each in other words, lose the spans of a pool process that ends, and wait long for a
collector that is away. Here the context travels in the job's own record or message, each process has a provider of its
own, and a collector that is away costs one warning. Everything is set by the standard OTEL_* variables; the sampler, if
they name none, is that of sampling.py.
"""

import atexit
import logging
import mmap
import os
import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import structlog
from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Link, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .sampling import Dropped, dropped_run, dropped_send, sampler
from .settings import NotConfigured

log = structlog.get_logger(__name__)
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
TIMEOUTS = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
TIMEOUT = 3.0  # seconds for one export unless the environment says otherwise: a process that ends waits for it
LEAVE_WITHIN = 4.0  # seconds; spans that have not been taken by then are lost
TRY_EVERY = 15.0  # seconds between two tries to reach a collector that is away
FAILURES = {"retried", "dead", "timed_out", "refused", "lost"}

away_until = memoryview(mmap.mmap(-1, 8)).cast("d")  # 0: it is there. Shared with the processes forked from this one.
propagator = TraceContextTextMapPropagator()
wanted_id: ContextVar[int] = ContextVar("wanted_id", default=0)


def wanted() -> bool:
    """Whether the environment asks for spans; raises NotConfigured if it wants them in a way that there is not."""
    exporter = _first("OTEL_TRACES_EXPORTER") or ("otlp" if _first(*ENDPOINTS) else "none")
    if exporter == "none" or _first("OTEL_SDK_DISABLED").lower() == "true":
        return False
    if exporter not in ("otlp", "console"):
        raise NotConfigured(f"OTEL_TRACES_EXPORTER={exporter}: this service has otlp, console and none")
    protocol = _first(*PROTOCOLS)
    if exporter == "otlp" and protocol not in ("", "http/protobuf"):
        raise NotConfigured(f"{PROTOCOLS[1]}={protocol}: this service speaks http/protobuf, usually to port 4318")
    return True


class Process:
    """The span of one attempt. A job that was sent for later has a trace of its own, linked to the one that sent it."""

    def __init__(
        self, system: str, job: str, queue: str, job_id: str, attempt: int, carried: Mapping[str, Any],
        began: float, *, current: bool,
    ) -> None:  # fmt: skip
        self.trace_id: str = carried["trace_id"]
        if dropped := dropped_run(carried):
            self.span: trace.Span = dropped
        else:
            sent = propagator.extract(carried, context.Context())
            sender = trace.get_current_span(sent).get_span_context()
            with _trace_id(self.trace_id):
                self.span = _tracer(globally=current).start_span(
                    f"process {job}",
                    sent if _hex(sender) == self.trace_id else context.Context(),
                    SpanKind.CONSUMER,
                    {**_attributes("process", system, job, queue, job_id), "job.attempt": attempt},
                    [Link(sender)] if sender.is_valid else [],
                    time.time_ns() - int((time.monotonic() - began) * 1e9),
                )
            self.trace_id = _hex(self.span.get_span_context())
        if current:  # for good: the next step of a workflow is sent when the job's function has returned
            context.attach(trace.set_span_in_context(self.span, context.Context()))

    def ended(self, outcome: str, error: BaseException | None) -> None:
        """With the outcome that is also counted."""
        self.span.set_attribute("job.outcome", outcome)
        if error:
            self.span.record_exception(error)
        if outcome in FAILURES:
            self.span.set_attribute("error.type", type(error).__qualname__ if error else outcome)
            self.span.set_status(StatusCode.ERROR, f"{type(error).__name__}: {error}" if error else outcome)
        self.span.end()


def current() -> dict[str, str]:
    """What a job sent from the current span takes along; nothing without a span."""
    carrier: dict[str, str] = {}
    span = trace.get_current_span()
    if isinstance(span, Dropped):
        return span.carried()
    propagator.inject(carrier)
    return {**carrier, "trace_id": _hex(span.get_span_context())} if carrier else {}


@contextmanager
def sending(
    system: str, job: str, queue: str, job_id: str, *, delayed: bool, trace_id: str
) -> Generator[dict[str, str]]:
    """The span of sending a job, and what the job takes along; `trace_id` is for a trace that starts here."""
    with _trace_id(trace_id):
        span = dropped_send(trace_id) or _tracer().start_span(
            f"send {queue}", kind=SpanKind.PRODUCER, attributes=_attributes("send", system, job, queue, job_id)
        )
    with trace.use_span(span, end_on_exit=True):
        yield {**current(), "trace_id": uuid.uuid4().hex} if delayed else current()


def request_span(name: str, headers: Mapping[str, str], attributes: Mapping[str, Any]) -> trace.Span:
    """The span of an HTTP request, in the trace that its sender names."""
    sent = propagator.extract(headers, context.Context())
    return _tracer(globally=True).start_span(name, sent, SpanKind.SERVER, attributes)


def _attributes(operation: str, system: str, job: str, queue: str, job_id: str) -> dict[str, Any]:
    """By https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/ (still "Development"), and `job.*`."""
    return {
        "messaging.system": system,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": queue,
        "messaging.message.id": job_id,
        "job.name": job,
    }


def _first(*variables: str) -> str:
    return next((value for name in variables if (value := os.environ.get(name, "").strip())), "")


def _hex(span: trace.SpanContext) -> str:
    return trace.format_trace_id(span.trace_id)


@contextmanager
def _trace_id(text: str) -> Generator[None]:
    """A trace that starts within has this id, if it is one: that of the job's record and log lines."""
    digits = text.replace("-", "")
    token = wanted_id.set(int(digits, 16) if len(digits) == 32 and digits.isalnum() else 0)
    try:
        yield
    finally:
        wanted_id.reset(token)


class JobIds(RandomIdGenerator):
    """Random, unless the trace has its id already."""

    def generate_trace_id(self) -> int:
        return wanted_id.get() or super().generate_trace_id()


class Patient(SpanExporter):
    """Says once that spans do not arrive, where OTLP logs each batch, and does not wait again and again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self.exporter = exporter
        self.leave_at = float("inf")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        now = time.monotonic()
        if now < away_until[0] or now > self.leave_at:
            return SpanExportResult.FAILURE
        result = self.exporter.export(spans)
        known = away_until[0] > 0
        away_until[0] = 0 if (taken := result is SpanExportResult.SUCCESS) else time.monotonic() + TRY_EVERY
        if taken and known:
            log.info("the collector takes spans again")
        elif not taken and not known:
            log.warning("spans are lost: the collector does not take them", endpoint=_first(*ENDPOINTS))
        return result

    def shutdown(self) -> None:
        self.exporter.shutdown()


class _Here:
    """What this process has: threads and connections do not survive a fork."""

    def __init__(self) -> None:
        name = (__package__ or "").replace("_", "-")
        resource = Resource.create({"process.pid": os.getpid()})
        if str(resource.attributes.get("service.name")).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": name}))
        self.exporter = Patient(_exporter())
        self.provider = TracerProvider(sampler(), resource, id_generator=JobIds(), shutdown_on_exit=False)
        self.provider.add_span_processor(BatchSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer(name)


here: _Here | None = None


def _exporter() -> SpanExporter:
    if _first("OTEL_TRACES_EXPORTER") == "console":
        return ConsoleSpanExporter()
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)  # Patient tells it
    return OTLPSpanExporter(timeout=None if _first(*TIMEOUTS) else TIMEOUT)


def _tracer(*, globally: bool = False) -> Tracer:
    """`globally`: spans that the job's own code and libraries make go the same way."""
    global here
    if here is None:
        here = _Here()
    if globally and not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(here.provider)
    return here.tracer


def _forget() -> None:
    global here
    here = None


def shutdown() -> None:
    """Hand over what is left, within seconds."""
    if here:
        here.exporter.leave_at = time.monotonic() + LEAVE_WITHIN
        here.provider.shutdown()
    _forget()


os.register_at_fork(after_in_child=_forget)
atexit.register(shutdown)
