"""A rendered Temporal service beside a bare hello-world: one environment, one dev server, one run, sides in turn.

    uv run --project DIR python tests/benchmarks/temporal.py [--rounds 5] [--pollers]

DIR is a rendered service (`stack=temporal monitoring=[prometheus,opentelemetry]`). The sides: a worker as in the SDK's
README with a workflow of one activity; the service with all its patterns on, payload encryption, traces sent to a
collector and the SDK's metrics included. `--pollers` compares pollers that scale by themselves with the SDK's fixed
ones, both in the service. Absolute figures depend on the machine; quote the ratios.
"""

import argparse
import asyncio
import base64
import contextlib
import importlib.metadata
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

from sides import cpu_of

BARE = """
import asyncio, os
from datetime import timedelta
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

@activity.defn
async def hello(name: str) -> str:
    return "Hello, " + name

@workflow.defn(name="hello")
class Hello:
    @workflow.run
    async def run(self, name: str) -> str:
        return await workflow.execute_activity(hello, name, start_to_close_timeout=timedelta(seconds=10))

async def main():
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    await Worker(client, task_queue="bare", workflows=[Hello], activities=[hello]).run()

if __name__ == "__main__":
    asyncio.run(main())
"""
PROBE = """
from ..runtime import job

@job(queue="default", retry=None)
async def hello(name: str) -> str:
    return "Hello, " + name
"""
SERVICE = """
import sys
import {package}.jobs.benchmark
from dataclasses import replace
from {package}.ops import worker
from {package}.queues import QUEUES
QUEUES[:] = [replace(queue, concurrency=100) for queue in QUEUES]
if sys.argv[1:] == ["fixed"]:
    from temporalio.worker import PollerBehaviorSimpleMaximum
    worker.PollerBehaviorAutoscaling = lambda: PollerBehaviorSimpleMaximum(5)
worker.run_worker(["default"])
"""
IN_FLIGHT = 50
WORKFLOWS = 600
ALONE = 60


class Collector(BaseHTTPRequestHandler):
    """Takes whatever spans come."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Side:
    """One of those compared."""

    def __init__(self, name: str, queue: str, command: list[str], env: dict[str, str]) -> None:
        self.name, self.queue, self.command, self.env = name, queue, command, env

    @contextlib.contextmanager
    def worker(self) -> Generator[int]:
        """A worker in a process group of its own, whose number it yields."""
        process = subprocess.Popen(self.command, env={**os.environ, **self.env}, start_new_session=True)
        try:
            yield process.pid
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    async def measure(self, client: Any, round_number: int) -> dict[str, float]:
        """Milliseconds: CPU of the worker for each workflow, and from start to result with one in flight."""
        gate, count = asyncio.Semaphore(IN_FLIGHT), iter(range(1_000_000))

        async def one() -> None:
            name = f"{self.name}-{round_number}-{next(count)}"
            async with gate:
                await client.execute_workflow("hello", "world", id=name, task_queue=self.queue, result_type=str)

        with self.worker() as group:
            await asyncio.gather(*(one() for _ in range(100)))
            before, began = cpu_of(group), time.perf_counter()
            await asyncio.gather(*(one() for _ in range(WORKFLOWS)))
            used, took = cpu_of(group) - before, time.perf_counter() - began
            each = []
            for _ in range(ALONE):
                began = time.perf_counter()
                await one()
                each.append(time.perf_counter() - began)
        rate = WORKFLOWS / took
        return {"cpu": used / WORKFLOWS * 1000, "alone": statistics.median(each) * 1000, "rate": rate}


async def compare(first: Side, second: Side, clients: tuple[Any, Any], rounds: int) -> None:
    found: dict[str, list[float]] = {"cpu": [], "alone": [], "rate": []}
    for number in range(rounds):
        sides = [(first, clients[0]), (second, clients[1])]
        results = {}
        for side, client in sides if number % 2 else reversed(sides):
            results[side.name] = await side.measure(client, number)
        for what, ratios in found.items():
            ratios.append(results[second.name][what] / results[first.name][what])
        shown = "; ".join(
            f"{name}: {one['cpu']:.1f} ms CPU, {one['alone']:.1f} ms alone, {one['rate']:.0f}/s"
            for name, one in results.items()
        )
        print(f"round {number + 1}: {shown}", flush=True)
    for what, ratios in found.items():
        low, high = min(ratios), max(ratios)
        print(f"{second.name} / {first.name}, {what}: median {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})")


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pollers", action="store_true")
    options = parser.parse_args()
    project = Path(sys.prefix).parent
    [package] = [path.parent.name for path in project.glob("src/*/contract.py")]
    (project / "src" / package / "jobs" / "benchmark.py").write_text(PROBE)
    versions = f"temporalio {importlib.metadata.version('temporalio')}, Python {platform.python_version()}"
    print(f"{versions}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    collector = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        port = free_port()
        broker = import_module(f"{package}.dev.broker")
        server = subprocess.Popen(broker.broker_command(Path(folder), port), stdout=subprocess.DEVNULL)
        try:
            while not broker.is_answering(port):
                await asyncio.sleep(0.1)
            os.environ |= {**broker.environment(port), "LOG_LEVEL": "WARNING"}
            os.environ["PAYLOAD_KEYS"] = f"k1:{base64.b64encode(os.urandom(32)).decode()}"
            import_module(f"{package}.settings").settings.cache_clear()
            full = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
                "WORKER_METRICS_PORT": str(free_port()),
            }
            code = SERVICE.format(package=package)
            service = Side("service", "default", [sys.executable, "-c", code], full)
            connection = import_module(f"{package}.runtime.connection")
            ours = await connection.client()
            if options.pollers:
                fixed = Side("fixed", "default", [sys.executable, "-c", code, "fixed"], full)
                await compare(fixed, service, (ours, ours), options.rounds)
            else:
                Path("bare.py").write_text(BARE)
                theirs = await import_module("temporalio.client").Client.connect(os.environ["TEMPORAL_ADDRESS"])
                bare = Side("bare", "bare", [sys.executable, "bare.py"], {})
                await compare(bare, service, (theirs, ours), options.rounds)
            await asyncio.sleep(0.1)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    asyncio.run(main())
