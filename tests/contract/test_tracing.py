"""One trace for each job: from the request through waiting, attempts and children to its end, whatever happens."""

import json
import shutil
import subprocess
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from .installed import Installed
from .processes import Process, free_ports, listening, until, within
from .service import Service, running

COLLECTOR = Path(__file__).with_name("collector.py")
NEW_TRACES = 50  # a second and process: what the service promises
FLOOD = """
import asyncio, json, sys, time
from opentelemetry import context, propagate
from {package}.ops.engine import engine

async def main():
    used, began, jobs = engine(), time.monotonic(), {{}}
    kinds = [("noop", {{}}, 0, 1), ("flaky", {{"label": "flood", "times": 1}}, 0, 2), ("noop", {{}}, 1, 1)]
    for number in range(0, 400, 20):
        batch = [kinds[0 if place < 14 else 1 if place < 17 else 2] for place in range(20)]
        sent = await asyncio.gather(*(used.submit(name, given, delay=delay) for name, given, delay, _ in batch))
        jobs |= {{job.id: runs for job, (*_, runs) in zip(sent, batch)}}
    seconds = time.monotonic() - began
    context.attach(propagate.extract({{"traceparent": sys.argv[1]}}))
    print(json.dumps({{"seconds": seconds, "jobs": jobs, "called": (await used.submit("noop", {{}})).id}}))

asyncio.run(main())
"""
Span = dict[str, Any]


class Traced:
    """A service that sends its spans to a collector of ours."""

    def __init__(self, service: Service, port: int) -> None:
        self.service, self.port = service, port
        self.collector: Process = self.start_collector()

    def start_collector(self) -> Process:
        self.collector = self.service.start("collector", self.service.installed.python, COLLECTOR, str(self.port))
        until(lambda: listening(self.port), 20, lambda: self.collector.log.read_text())
        return self.collector

    def spans(self, **having: Any) -> list[Span]:
        """Those with these values, in the order in which they began; `job=` for the id of a job."""
        job = having.pop("job", None)
        found: list[Span] = httpx.get(f"http://127.0.0.1:{self.port}/spans", timeout=10).json()
        fitting = [
            span
            for span in found
            if all(span[name] == value for name, value in having.items())
            and job in (None, span["attributes"].get("messaging.message.id"))
        ]
        return sorted(fitting, key=lambda span: span["start"])

    def wait(self, count: int, **having: Any) -> list[Span]:
        """Those spans, once there are so many."""
        return until(
            lambda: found if len(found := self.spans(**having)) >= count else [],
            10,
            lambda: f"{count} spans {having}, there are {json.dumps(self.spans(), indent=1)}",
        )


def environment(port: int, delay: int = 100) -> dict[str, Any]:
    return {
        "otel_exporter_otlp_endpoint": f"http://127.0.0.1:{port}",
        "otel_service_name": "traced",
        "otel_bsp_schedule_delay": str(delay),
        "log_format": "json",
    }


@pytest.fixture(scope="module")
def with_tracing(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    folder = tmp_path_factory.mktemp("tracing") / "service"
    answers = {"monitoring": ["prometheus", "opentelemetry"]}
    yield Installed.render(folder, pytestconfig.getoption("stack", "celery"), answers)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def shared(with_tracing: Installed) -> Iterator[Traced]:
    [port] = free_ports(1)
    with running(with_tracing, **environment(port)) as service:
        yield Traced(service, port)


@pytest.fixture
def alone(with_tracing: Installed) -> Iterator[Callable[..., Traced]]:
    """Starts a service of the test's own."""
    started = []

    def start(**settings: Any) -> Traced:
        [port] = free_ports(1)
        context = running(with_tracing, **environment(port, settings.pop("delay", 100)), **settings)
        service = context.__enter__()
        started.append(context)
        return Traced(service, port)

    yield start
    for context in started:
        context.__exit__(None, None, None)


def log_lines(process: Process) -> list[dict[str, Any]]:
    lines = process.log.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_one_trace_leads_from_the_callers_span_through_the_request_to_every_attempt(shared: Traced) -> None:
    service, trace, caller = shared.service, uuid.uuid4().hex, uuid.uuid4().hex[:16]
    service.http.get("/api/v1/queues")  # from the second request on, FastAPI has a provider for spans of its own
    answer = service.http.post(
        "/api/v1/jobs/flaky",
        json={"label": f"flaky {trace}", "times": 2},
        headers={"traceparent": f"00-{trace}-{caller}-01"},
    )
    job = answer.json()["id"]
    assert service.wait(job)["trace_id"] == trace

    [request] = shared.wait(1, trace=trace, kind="server")
    assert request["name"] == "POST /api/v1/jobs/{name}"
    assert request["parent"] == caller
    assert request["attributes"]["http.route"] == "/api/v1/jobs/{name}"
    assert request["attributes"]["http.response.status_code"] == 202

    [sent] = shared.wait(1, job=job, kind="producer")
    system = service.installed.stack.answers["stack"]
    about = {"messaging.system": system, "messaging.destination.name": "default", "messaging.message.id": job}
    operation = {"messaging.operation.name": "send", "messaging.operation.type": "send"}
    assert (sent["name"], sent["trace"], sent["parent"]) == ("send default", trace, request["id"])
    assert sent["attributes"] == {**about, **operation, "job.name": "flaky"}
    assert request["start"] <= sent["start"] <= sent["end"] <= request["end"]

    attempts = shared.wait(3, job=job, kind="consumer")
    operation = {"messaging.operation.name": "process", "messaging.operation.type": "process"}
    outcomes = ["retried", "retried", "succeeded"]
    for number, (span, outcome) in enumerate(zip(attempts, outcomes, strict=True), 1):
        assert (span["name"], span["trace"], span["parent"]) == ("process flaky", trace, sent["id"])
        assert span["links"] == [[trace, sent["id"]]]
        assert span["attributes"].items() >= {**about, **operation, "job.attempt": number}.items()
        assert span["attributes"]["job.outcome"] == outcome
        assert span["failed"] == (outcome == "retried")
    assert attempts[0]["attributes"]["error.type"] == "TransientError"
    assert attempts[0]["events"]["exception"]["exception.message"] == f"flaky {trace}: no answer"
    assert "Traceback" in attempts[0]["events"]["exception"]["exception.stacktrace"]
    assert {span["service"] for span in shared.spans(trace=trace)} == {"traced"}
    assert shared.spans(trace=trace, kind="server") == [request], "the only one, also once all has been sent"

    told = [line for line in log_lines(service.workers[0]) if line.get("job_id") == job]
    assert {line["trace_id"] for line in told} == {trace}
    assert [line["message"] for line in told if line["message"].startswith("job ")] == [f"job {o}" for o in outcomes]


def test_what_a_job_sends_belongs_to_its_trace(shared: Traced) -> None:
    service, label = shared.service, uuid.uuid4().hex
    job = service.submit("family", {"label": label})
    trace = service.wait(job)["trace_id"]
    labels = [f"{label} {step}" for step in ("one", "first", "second", "part", "part", "then")]
    children = {service.told(child, labels.count(child))[-1]["id"]: child for child in labels}
    assert len(children) == 5

    consumed = shared.wait(7, trace=trace, kind="consumer")
    processed = {span["attributes"]["messaging.message.id"]: span for span in consumed}
    assert len(processed) == 7
    known = {span["id"]: span for span in shared.wait(15, trace=trace)}
    for child, about in children.items():
        assert processed[child]["links"] == [[trace, processed[child]["parent"]]], about
        sent = known[processed[child]["parent"]]
        assert (sent["kind"], sent["attributes"]["messaging.message.id"]) == ("producer", child), about
        assert known[sent["parent"]]["kind"] == "consumer", about
        assert service.status(child)["trace_id"] == trace, about


def test_a_trace_that_its_caller_drops_is_dropped_whole_and_takes_nothing_else_along(shared: Traced) -> None:
    service, label, trace = shared.service, uuid.uuid4().hex, uuid.uuid4().hex
    answer = service.http.post(
        "/api/v1/jobs/family",
        json={"label": label},
        headers={"traceparent": f"00-{trace}-{uuid.uuid4().hex[:16]}-00", "Idempotency-Key": label},
    )
    assert service.wait(answer.json()["id"])["trace_id"] == trace
    for step, count in (("one", 1), ("second", 1), ("part", 2), ("then", 1)):
        for told in service.told(f"{label} {step}", count):
            child = service.wait(told["id"])
            assert (child["trace_id"], child["idempotency_key"]) == (trace, None)
    assert not shared.spans(trace=trace)


def test_a_delayed_job_has_a_trace_of_its_own_linked_to_the_one_that_sent_it(shared: Traced) -> None:
    service, label = shared.service, uuid.uuid4().hex
    job = service.submit("flaky", {"label": label, "times": 1}, delay=1)
    trace = service.wait(job)["trace_id"]
    [sent] = shared.wait(1, job=job, kind="producer")
    assert sent["trace"] != trace
    for span in shared.wait(2, job=job, kind="consumer"):
        assert (span["trace"], span["parent"]) == (trace, "")
        assert span["links"] == [[sent["trace"], sent["id"]]]


def test_a_job_that_fails_or_is_stopped_shows_why(shared: Traced) -> None:
    service, label = shared.service, uuid.uuid4().hex
    failed = service.submit("permanent", {"label": label})
    deaf = service.submit("overrun", {"label": label, "deaf": True})
    service.wait(failed, "failed")
    service.wait(deaf, "failed")
    [span] = shared.wait(1, job=failed, kind="consumer")
    assert span["failed"]
    assert span["attributes"].items() >= {"job.outcome": "dead", "error.type": "PermanentError"}.items()
    [span] = shared.wait(1, job=deaf, kind="consumer")
    assert span["failed"]
    assert span["attributes"]["job.outcome"] == "timed_out"
    assert span["trace"] == service.status(deaf)["trace_id"]
    assert span["end"] - span["start"] > 2.5


def test_no_span_is_lost_when_processes_are_replaced_and_stopped(alone: Callable[..., Traced]) -> None:
    """Nothing is exported in time: all spans come from what processes hand over when they end."""
    traced = alone(delay=600_000, worker_max_tasks_per_child=4, otel_traces_sampler="parentbased_always_on")
    service = traced.service
    jobs = {service.submit("noop") for _ in range(30)}
    for job in jobs:
        service.wait(job)
    with within(10):
        assert service.workers[0].stop() == 0
        service.api.stop()
    for kind in ("producer", "consumer"):
        found = [span["attributes"]["messaging.message.id"] for span in traced.spans(kind=kind)]
        assert sorted(found) == sorted(jobs), kind


def test_of_a_flood_some_traces_are_kept_each_whole_and_those_that_their_caller_keeps(
    alone: Callable[..., Traced],
) -> None:
    traced = alone()
    service, trace, caller = traced.service, uuid.uuid4().hex, uuid.uuid4().hex[:16]
    code = FLOOD.format(package=service.installed.package)
    command = [service.installed.python, "-c", code, f"00-{trace}-{caller}-01"]
    flood = json.loads(subprocess.check_output(command, cwd=service.folder, env=service.environment, text=True))
    traces = {job: service.wait(job)["trace_id"] for job in [*flood["jobs"], flood["called"]]}
    sent = {span["attributes"]["messaging.message.id"] for span in traced.spans(kind="producer")}
    kept = sent - {flood["called"]}
    assert NEW_TRACES <= len(kept) <= NEW_TRACES * (1 + flood["seconds"]) + 1
    assert len(kept) < len(flood["jobs"])

    def runs() -> Counter[str]:
        return Counter(span["attributes"]["messaging.message.id"] for span in traced.spans(kind="consumer"))

    whole = Counter({job: runs for job, runs in flood["jobs"].items() if job in kept}) + Counter([flood["called"]])
    until(lambda: runs() == whole, 10, lambda: f"runs {runs() - whole} too many, {whole - runs()} missing")
    [span] = traced.spans(kind="producer", trace=trace)
    assert (span["parent"], span["attributes"]["messaging.message.id"]) == (caller, flood["called"])
    told = {line["job_id"]: line["trace_id"] for line in log_lines(service.workers[0]) if "job_id" in line}
    assert told == traces  # also of what has no span


def test_a_run_that_is_handed_back_has_a_span(alone: Callable[..., Traced]) -> None:
    traced = alone(drain=1)
    job = traced.service.submit("mark", {"label": "unfinished", "seconds": 60})
    traced.service.told("unfinished")
    assert traced.service.workers[0].stop(15) == 0
    [span] = traced.spans(job=job, kind="consumer")
    assert span["attributes"]["job.outcome"] == "handed_back"
    assert not span["failed"]


@pytest.mark.parametrize("how", ["gone", "frozen"])
def test_a_collector_that_is_away_costs_one_warning(alone: Callable[..., Traced], how: str) -> None:
    traced = alone()
    service = traced.service
    if how == "gone":
        traced.collector.kill_group()
    else:
        traced.collector.freeze()
    with within(15):
        for job in [service.submit("noop") for _ in range(20)]:
            service.wait(job)
    worker = service.workers[0]
    until(lambda: "spans are lost" in worker.log.read_text() and "spans are lost" in service.api.log.read_text(), 10)
    with within(7):
        assert worker.stop() == 0
        service.api.stop()
    for process in (worker, service.api):
        warned = [line for line in log_lines(process) if line["level"] in ("warning", "error", "critical")]
        assert [line["message"] for line in warned] == ["spans are lost: the collector does not take them"]


def test_without_an_endpoint_nothing_of_it_is_loaded(with_tracing: Installed) -> None:
    package = with_tracing.package
    code = f"import sys, {package}.telemetry as t; print(t.tracing, any('opentelemetry' in m for m in sys.modules))"
    done = subprocess.run([with_tracing.python, "-c", code], env={}, capture_output=True, text=True, check=True)
    assert done.stdout == "None False\n"


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_TRACES_EXPORTER=zipkin"])
def test_an_exporter_that_it_has_not_is_refused_at_once(shared: Traced, variable: str) -> None:
    settings: dict[str, Any] = dict([variable.split("=")])
    said = shared.service.cli("worker", code=2, **settings)
    assert said.count("\n") <= 3
    assert variable in said
