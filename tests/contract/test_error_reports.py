"""Errors reach whoever takes reports by Sentry's protocol, with the job that they are about and without its payload."""

import json
import os
import shutil
import subprocess
import uuid
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pytest

from .installed import Installed
from .processes import until
from .service import Service, running


class Reports(ThreadingHTTPServer):
    """Takes events like Sentry's own server."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), Receiver)

    @property
    def dsn(self) -> str:
        return f"http://key@127.0.0.1:{self.server_port}/1"

    def of(self, job: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["tags"].get("job_id") == job]


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = zlib.decompress(body, wbits=31)
        documents = [json.loads(line) for line in body.splitlines() if line]
        for header, document in zip(documents[1::2], documents[2::2], strict=True):
            if header["type"] == "event":
                cast("Reports", self.server).events.append(document)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def reports() -> Iterator[Reports]:
    with Reports() as server:
        Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def with_sentry(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the optional package, for PYTHONPATH: the shared environment stays without."""
    folder = tmp_path_factory.mktemp("sentry")
    uv = os.environ.get("UV") or shutil.which("uv")
    assert uv
    [wanted] = [line for line in (installed.folder / "pyproject.toml").read_text().splitlines() if "sentry-sdk" in line]
    requirement = wanted.partition('"')[2].partition('"')[0]
    command = [uv, "pip", "install", "--quiet", "--python", str(installed.python), "--target", str(folder), requirement]
    subprocess.run(command, check=True)
    return folder


def test_a_job_that_fails_for_good_is_reported_and_its_payload_is_not(
    installed: Installed, reports: Reports, with_sentry: Path
) -> None:
    secret = uuid.uuid4().hex
    with running(installed, sentry_dsn=reports.dsn, pythonpath=with_sentry, log_format="json") as service:
        retried = service.submit("flaky", {"label": "fails twice", "times": 2})
        service.wait(retried)
        job = service.submit("overrun", {"label": secret, "deaf": False})
        status = service.wait(job, "failed")
        [event] = until(lambda: reports.of(job), 10)
        assert event["level"] == "error"
        assert event["exception"]["values"][-1]["type"] == "TimedOut"
        about = {"job": "overrun", "job_id": job, "attempt": "1", "queue": "default", "trace_id": status["trace_id"]}
        assert event["tags"] == about
        assert secret not in json.dumps(event)
        assert not reports.of(retried), "only what ends a job for good is for a person to look at"


def test_a_report_is_not_lost_when_its_process_ends_at_once(
    installed: Installed, reports: Reports, with_sentry: Path
) -> None:
    settings: dict[str, Any] = {"sentry_dsn": reports.dsn, "pythonpath": with_sentry, "worker_max_tasks_per_child": 1}
    with running(installed, **settings) as service:
        jobs = [service.submit("unexpected", {"label": "defect"}) for _ in range(5)]
        for job in jobs:
            service.wait(job, "failed")
        service.workers[0].stop()
    assert [len(reports.of(job)) for job in jobs] == [1] * 5


def test_a_dsn_without_the_package_is_refused_at_once(service: Service) -> None:
    for command in ("api", "worker", "scheduler"):
        said = service.cli(command, code=2, sentry_dsn="http://key@127.0.0.1:9/1")
        assert "SENTRY_DSN: needs the package sentry-sdk: uv sync --extra error-reports" in said
