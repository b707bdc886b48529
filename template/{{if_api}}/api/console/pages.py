"""What the console's pages show: one look at the service for all who watch, its last hour, and text made safe.

If each open page asked for itself, the console would be a load of its own; a history kept by a page is gone when that
is reloaded. So the API process looks once for everybody, and samples the last hour in its memory, seen or not: more
than a glance back is what Prometheus is for. Each API process has its own. The template escapes all that comes from
jobs, and a page may load and run nothing but what is in the files beside this one.
"""

import asyncio
import json
import secrets
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, get_args
from urllib.parse import quote

from fastapi.responses import HTMLResponse
from fastapi.sse import ServerSentEvent
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ...contract import FINAL, BrokerUnavailable, DeadLetter, Health, JobStatus, QueueStatus, ScheduleStatus
from ...engine import Engine, promptly
from ...queues import QUEUES
from ...settings import settings
from ..access import CONSOLE

FRESH = 1.0  # seconds for which one look serves everybody; ten times what it took if that is longer
SAMPLE_EVERY = 10.0  # seconds
SAMPLES = 360  # an hour
POINTS = 120  # of a sparkline, at most
SHOWN = 10  # of the dead letters, the newest
FAILURES = frozenset({"retried", "dead", "timed_out", "lost", "refused"})
POLICY = (
    "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

Failures = Counter[tuple[str, str, str]]


@dataclass(frozen=True)
class Look:
    """The service at one moment; `away` says why there is no newer one."""

    at: float = 0.0
    away: str = ""
    health: Health = field(default_factory=lambda: Health(ok=False, broker=False))
    queues: list[QueueStatus] = field(default_factory=list)
    running: list[JobStatus] = field(default_factory=list)
    schedules: list[ScheduleStatus] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)


class Sample(NamedTuple):
    """Depth of each queue; failed runs since ever by job, queue and outcome."""

    at: float
    depths: dict[str, int]
    failed: Failures


class Watch:
    """The looks and samples of one API process."""

    def __init__(self) -> None:
        self.samples: deque[Sample] = deque(maxlen=SAMPLES)
        self.latest = Look()
        self.changed_at = 0.0
        self.fresh_for = FRESH
        self.closing = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = 0.0

    async def look(self, engine: Engine) -> Look:
        """At most `fresh_for` old, and younger than the last form; who comes while one is taken shares it."""
        now = time.time()
        if self.latest.at < max(now - self.fresh_for, self.changed_at) or self.latest.away:
            if self._asking is None or self._asking.done() or self._asked_at < self.changed_at:
                self._asked_at = now
                self._asking = asyncio.create_task(self._ask(engine, now))
            await asyncio.shield(self._asking)
        return self.latest

    async def _ask(self, engine: Engine, now: float) -> None:
        letters = engine.dead_letters(limit=SHOWN)
        asked = asyncio.gather(engine.health(), engine.queues(), engine.running(), engine.schedules(), letters)
        try:
            self.latest = Look(now, "", *await promptly(asked))
            self.fresh_for = max(FRESH, 10 * (time.time() - now))
        except BrokerUnavailable as error:
            self.latest = replace(self.latest, away=str(error))

    async def sample(self, engine: Engine) -> None:
        """Note how deep the queues are, and what has failed so far."""
        queues, counts = await promptly(asyncio.gather(engine.queues(), engine.counts()))
        failed: Failures = Counter()
        for name, count in counts.items():
            what, job, queue, outcome = name.split("|")
            if what == "finished" and outcome in FAILURES:
                failed[job, queue, outcome] = int(count)
        self.samples.append(Sample(time.time(), {queue.name: queue.depth for queue in queues}, failed))

    async def goes_on(self, seconds: float) -> bool:
        """Wait so long; False when the process is about to end, which open streams must not hold up."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.closing.wait(), seconds)
        return not self.closing.is_set()

    def failures(self) -> list[tuple[str, str, dict[str, int]]]:
        """Since the oldest sample: job, queue, and how many of its runs failed how; the most first."""
        found: dict[tuple[str, str], dict[str, int]] = {}
        if self.samples:
            for (job, queue, outcome), count in (self.samples[-1].failed - self.samples[0].failed).items():
                found.setdefault((job, queue), {})[outcome] = count
        rows = [(job, queue, outcomes) for (job, queue), outcomes in found.items()]
        return sorted(rows, key=lambda row: (-sum(row[2].values()), row[0], row[1]))

    def depths(self, queue: QueueStatus) -> list[tuple[float, int]]:
        """Times and depths, the deepest of each stretch, and the depth now."""
        taken = [(sample.at, sample.depths.get(queue.name, 0)) for sample in self.samples]
        step = max(1, -(-len(taken) // POINTS))
        deepest = [max(taken[i : i + step], key=lambda point: point[1]) for i in range(0, len(taken), step)]
        return [*deepest, (time.time(), queue.depth)]


@asynccontextmanager
async def watching(engine: Engine) -> AsyncGenerator[Watch]:
    """A watch that samples until the block ends."""
    watch = Watch()

    async def sample() -> None:
        while True:
            with suppress(BrokerUnavailable):  # a gap
                await watch.sample(engine)
            await asyncio.sleep(SAMPLE_EVERY)

    sampling = asyncio.create_task(sample())
    try:
        yield watch
    finally:
        sampling.cancel()


def sparkline(points: list[tuple[float, int]], width: int = 120, height: int = 28) -> str:
    """As the points of an SVG polyline, 1 away from each edge."""
    (first, _), (last, _) = points[0], points[-1]
    across, up = (width - 2) / max(last - first, 1), (height - 2) / max(1, *(depth for _, depth in points))
    return " ".join(f"{1 + (at - first) * across:.1f},{height - 1 - depth * up:.1f}" for at, depth in points)


def span(seconds: float) -> str:
    """A length of time in words, such as `3 min`."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def moment(seconds: float | None) -> str:
    """A time in UTC; also one of a foreign client that is none."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC" if seconds else "–"
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def pretty(value: object) -> str:
    """JSON for a person."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def encodable(text: str) -> str:
    """Half a surrogate pair, which a library may put into its message, is no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def example(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Any:
    """A payload of this JSON schema to start from."""
    schema = definitions.get(schema.get("$ref", "").rpartition("/")[2], schema)
    if "default" in schema:
        return schema["default"]
    if choices := schema.get("enum") or schema.get("examples"):
        return choices[0]
    if "properties" in schema:
        return {name: example(part, definitions) for name, part in schema["properties"].items()}
    least = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
    empty = {"string": "", "integer": least, "number": least, "boolean": False, "array": [], "object": {}}
    return empty.get(schema.get("type", ""))


PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
PAGES.filters |= {
    "ago": lambda seconds: f"{span(time.time() - seconds)} ago" if seconds else "never",
    "moment": moment,
    "pretty": pretty,
    "segment": lambda text: quote(text, safe=":~", errors="replace"),
    "span": span,
    "sparkline": sparkline,
}
NAMES: dict[str, Any] = {
    "FINAL": FINAL,
    "console": CONSOLE,
    "limits": {queue.name: queue for queue in QUEUES},
    "now": time.time,
    "reasons": get_args(DeadLetter.model_fields["reason"].annotation),
    "service": (__package__ or "").partition(".")[0].replace("_", " ").title(),
}
PAGES.globals.update(NAMES)


def page(name: str, code: int = 200, **shown: Any) -> HTMLResponse:
    """One of the pages of console.html, answered with this HTTP status."""
    nonce = secrets.token_urlsafe(16)
    shown |= {"page": name, "nonce": nonce, "tokens": bool(settings().api_tokens)}
    headers = {
        "Content-Security-Policy": POLICY.format(nonce=nonce),
        "Cache-Control": "no-store",
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }
    return HTMLResponse(encodable(PAGES.get_template("console.html").render(shown)), code, headers)


def section(name: str, **shown: Any) -> ServerSentEvent:
    """One block of console.html, to replace what a page shows of it."""
    template = PAGES.get_template("console.html")
    text = encodable("".join(template.blocks[name](template.new_context(shown))))
    return ServerSentEvent(event="section", raw_data=text)
