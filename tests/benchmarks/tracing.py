"""What spans cost: throughput of one rendered service with tracing on and off, in alternating rounds on one Valkey.

    uv run --project DIR python tests/benchmarks/tracing.py [--jobs 6000] [--rounds 9] [--work 2] [--sampler NAME]

DIR is a service of either stack, rendered with monitoring=[opentelemetry] or more. The collector takes spans and looks
at none, on the same machine. A job works for --work milliseconds of CPU: 0 is the worst case, 2 about one HTTP call and
some JSON. Without --sampler it is the default one, which keeps some traces of a flood; parentbased_always_on keeps all.
Quote the ratios; that of CPU per job is the one which neighbours on the machine disturb least.
"""

import argparse
import asyncio
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

from sides import cpu_of, stop

PROBES = """
import time
from ..runtime import job
@job(retry=None)
{signature}:
    until = time.thread_time() + {work} / 1000
    while time.thread_time() < until: ...
"""
SEND = """
import asyncio, time
from {package}.ops.engine import engine
async def main():
    used, left = engine(), {jobs}
    await used.submit("busy", {{}})
    began = time.perf_counter()
    while left > 0:
        await asyncio.gather(*(used.submit("busy", {{}}) for _ in range(20)))
        left -= 20
    print({jobs} / (time.perf_counter() - began))
asyncio.run(main())
"""


class Sink(BaseHTTPRequestHandler):
    """Takes whatever is sent."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def finished(package: str) -> float:
    """How many runs have ended."""
    engine = import_module(f"{package}.ops.engine").engine()

    async def ask() -> dict[str, float]:
        counts: dict[str, float] = await engine.counts()
        await engine.close()
        return counts

    return sum(value for name, value in asyncio.run(ask()).items() if name.startswith("finished|busy|"))


def measured(package: str, jobs: int, environment: dict[str, str], client: Any, folder: Path) -> tuple[float, ...]:
    """Jobs sent per second, jobs run per second, milliseconds of the worker's CPU per job."""
    client.flushall()
    code = SEND.format(package=package, jobs=jobs)
    sent = subprocess.check_output([sys.executable, "-c", code], env=environment, cwd=folder, text=True)
    command = [sys.executable, "-m", package, "worker", "--queue", "default"]
    worker = subprocess.Popen(command, env=environment, cwd=folder, start_new_session=True)
    try:
        begin = end = 0.0
        while end == 0.0:
            done, now = finished(package), time.perf_counter()
            if not begin and done >= jobs * 0.1:
                begin, at_begin, cpu_begin = now, done, cpu_of(worker.pid)
            if done >= jobs * 0.9:
                end, at_end, cpu_end = now, done, cpu_of(worker.pid)
            time.sleep(0.05)
        run = at_end - at_begin
        return float(sent), run / (end - begin), 1000 * (cpu_end - cpu_begin) / run
    finally:
        stop(worker)


def collect(port: int) -> None:
    ThreadingHTTPServer(("127.0.0.1", port), Sink).serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--work", type=float, default=0, help="milliseconds of CPU in each job")
    parser.add_argument("--sampler", default="", help="OTEL_TRACES_SAMPLER of the side with tracing on")
    options = parser.parse_args()
    project = Path(sys.prefix).parent
    package = next(path.parent.name for path in (project / "src").glob("*/tracing.py"))
    probes = project / "src" / package / "jobs" / "benchmark_probes.py"
    embedded, broker = import_module(f"{package}.dev.embedded"), import_module(f"{package}.dev.broker")
    with tempfile.TemporaryDirectory() as scratch:
        folder, port, sink = Path(scratch), embedded.free_port(), embedded.free_port()
        server = subprocess.Popen(broker.broker_command(folder / "valkey", port), start_new_session=True)
        collector = subprocess.Popen([sys.executable, __file__, "--collect", str(sink)], start_new_session=True)
        os.environ["REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
        off = {**os.environ, "LOG_LEVEL": "WARNING", "LOG_FORMAT": "json"}
        on = {
            **off,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{sink}",
            "OTEL_TRACES_SAMPLER": options.sampler,
        }
        try:
            celery = (project / "src" / package / "celery.py").exists()
            signature = "def busy() -> None" if celery else "async def busy(ctx: object) -> None"
            probes.write_text(PROBES.format(signature=signature, work=options.work))
            while not broker.is_answering(port):
                time.sleep(0.05)
            client = import_module("redis").Redis.from_url(os.environ["REDIS_URL"])
            print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
            ratios = []
            for number in range(options.rounds):
                sides = [("on", on), ("off", off)]
                found = {
                    name: measured(package, options.jobs, environment, client, folder)
                    for name, environment in (sides if number % 2 else reversed(sides))
                }
                ratios.append([with_ / without for with_, without in zip(found["on"], found["off"], strict=True)])
                print(
                    "on / off: sent {0[0]:.0f} / {1[0]:.0f} jobs/s, run {0[1]:.0f} / {1[1]:.0f} jobs/s, "
                    "worker CPU {0[2]:.2f} / {1[2]:.2f} ms a job".format(found["on"], found["off"]),
                    flush=True,
                )
            sent, run, cpu = (statistics.median(column) for column in zip(*ratios, strict=True))
            ratios_of = f"{options.work:g} ms of work, median of {len(ratios)}"
            print(f"{ratios_of}: sent x {sent:.2f}, run x {run:.2f}, worker CPU per job x {cpu:.2f}")
        finally:
            probes.unlink(missing_ok=True)
            for process in (collector, server):
                process.terminate()
                process.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--collect"]:
        collect(int(sys.argv[2]))
    else:
        main()
