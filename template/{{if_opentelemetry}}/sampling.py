"""Rate-limited sampling: every new trace is kept at ordinary load, and so many a second in a flood; so that spans, each
dearer than an empty job, never take the processor from the jobs. A trace is kept whole or not at all.
"""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import (
    INVALID_SPAN,
    INVALID_SPAN_CONTEXT,
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceState,
    get_current_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

NEW_TRACES = 50.0  # a second and process, with about three spans of 0.15 ms each: 2 % of a core
OURS = not os.environ.get("OTEL_TRACES_SAMPLER", "").strip()
CARRIED = ("trace_id", "traceparent", "tracestate")
DROPPED = SamplingResult(Decision.DROP)
propagator = TraceContextTextMapPropagator()


def sampler() -> Sampler | None:
    """None if the environment names one: OpenTelemetry makes it. A trace that comes from elsewhere goes as it came."""
    return ParentBased(rate_limited) if OURS else None


class Dropped(NonRecordingSpan):
    """Of a job whose trace is not kept. Floods are made of them: nothing is worked out before somebody asks for it."""

    def __init__(self, carried: Mapping[str, Any]) -> None:
        super().__init__(INVALID_SPAN_CONTEXT)
        self.given = carried

    def carried(self) -> dict[str, str]:
        """What the jobs that it sends take along."""
        return {name: self.given[name] for name in CARRIED if self.given.get(name)}

    def get_span_context(self) -> SpanContext:
        return get_current_span(propagator.extract(self.carried(), Context())).get_span_context()


def dropped_send(trace_id: str) -> Dropped | None:
    """For a job that is sent in a dropped run, or starts a trace while as many as there may be are kept."""
    span = get_current_span()
    if isinstance(span, Dropped):
        return span
    if not OURS or span is not INVALID_SPAN or rate_limited.others.count() >= 1:
        return None
    trace_id = trace_id.replace("-", "")
    return Dropped({"trace_id": trace_id, "traceparent": f"00-{trace_id}-{os.urandom(8).hex()}-00"})


def dropped_run(carried: Mapping[str, Any]) -> Dropped | None:
    """For a job whose trace was dropped where it was sent, by the flags of its `traceparent`."""
    parent: str = carried.get("traceparent", "")
    if OURS and parent[3:35] == carried["trace_id"] and parent.endswith(("-00", "-02")):
        return Dropped(carried)
    return None


class RateLimited(Sampler):
    """For spans without a parent. The SDK (1.45) has only shares: too few traces at rest, or too many in a flood."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.looks, self.others = Bucket(rate), Bucket(rate)

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """A job that was sent for later goes as the trace that sent it: all its attempts, or none."""
        if links:
            kept = any(link.context.trace_flags.sampled for link in links)
        else:  # who asks again and again how a job fares does not use up what jobs have
            kept = (self.looks if name in ("GET", "HEAD") else self.others).take()
        return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes) if kept else DROPPED

    def get_description(self) -> str:
        return f"RateLimited{{{self.rate:g}/s}}"


class Bucket:
    """Tokens, `rate` more each second, and never more than those of one second."""

    def __init__(self, rate: float) -> None:
        self.rate = self.left = rate
        self.at = time.monotonic()

    def count(self) -> float:
        """How many there are."""
        now = time.monotonic()
        self.left, self.at = min(self.rate, self.left + (now - self.at) * self.rate), now
        return self.left

    def take(self) -> bool:
        """Whether there was one. Without a lock: threads that meet here may take one for two."""
        taken = self.count() >= 1
        self.left -= taken
        return taken


rate_limited = RateLimited(NEW_TRACES)
