"""What the benchmarks of Celery share: a rendered service beside a hand-written app, in turn, on one broker."""

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
from collections.abc import Callable, Generator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

PROBES = """
import time
from ..runtime import job
@job(retry=None)
def noop() -> None: ...
@job(retry=None)
def stamp(sent: float) -> float: return time.time() - sent
"""
FLAGS = ["worker", "-Q", "default", "-c", "2", "--without-gossip", "--without-mingle", "--loglevel=WARNING"]


class Side:
    """One of the two apps: sends jobs, runs a worker. Each broker has its own `left` and `clear`."""

    def __init__(self, name: str, app_path: str, module: str, folder: Path, env: Mapping[str, str]) -> None:
        self.name, self.app_path, self.folder = name, app_path, folder
        self.env = {**os.environ, **env, "PYTHONPATH": str(folder), "LOG_LEVEL": "WARNING"}  # as FLAGS say to Celery
        self.module = import_module(module)

    def left(self) -> int:
        """Jobs that have not ended."""
        raise NotImplementedError

    def clear(self) -> None:
        """Forget everything."""
        raise NotImplementedError

    def worker(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "celery", "-A", self.app_path, *FLAGS]
        return subprocess.Popen(command, env=self.env, cwd=self.folder, start_new_session=True)

    def throughput(self, jobs: int) -> tuple[float, float]:
        """Jobs per second, and milliseconds of the worker's CPU per job, between the first and the last tenth."""
        self.clear()
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
        self.clear()
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
    """Seconds of CPU that this group has used, pool processes that were replaced included (Linux)."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                ticks += sum(map(int, fields[11:15]))  # its own, and that of its children which have ended
    return ticks / os.sysconf("SC_CLK_TCK")


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def on_one_broker(make: Callable[..., Side], bare: str) -> Generator[tuple[Side, Side]]:
    """The service whose environment this runs in, and the app `bare` (its source), on the service's embedded broker."""
    project = Path(sys.prefix).parent
    package = next(path.parent.name for path in (project / "src").glob("*/celery.py"))
    probes = project / "src" / package / "jobs" / "benchmark_probes.py"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        server = import_module(f"{package}.dev.embedded").EmbeddedBroker(folder / "broker")
        os.environ |= server.environment  # before anything reads the settings
        (folder / "bare.py").write_text(bare)
        probes.write_text(PROBES)
        sys.path.insert(0, scratch)
        try:
            with server:
                ours = make("service", package, f"{package}.jobs.benchmark_probes", folder, server.environment)
                yield ours, make("hand-written", "bare", "bare", folder, server.environment)
        finally:
            probes.unlink(missing_ok=True)


def compare(make: Callable[..., Side], bare: str, doc: str | None, packages: Sequence[str]) -> None:
    """Read the options, run both sides, print the ratios."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--jobs", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=300)
    options = parser.parse_args()
    versions = {name: importlib.metadata.version(name) for name in packages}
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}")
    with on_one_broker(make, bare) as (service, hand_written):
        ratios: list[tuple[float, float]] = []
        for round_ in range(options.rounds):
            sides = (hand_written, service) if round_ % 2 else (service, hand_written)
            rates: dict[str, Any] = {side.name: side.throughput(options.jobs) for side in sides}
            (rate, cpu), (bare_rate, bare_cpu) = rates["service"], rates["hand-written"]
            ratios.append((rate / bare_rate, cpu / bare_cpu))
            print(
                f"service / hand-written: {rate:.0f} / {bare_rate:.0f} jobs/s, "
                f"worker CPU {cpu:.2f} / {bare_cpu:.2f} ms a job",
                flush=True,
            )
        speed, cost = (statistics.median(column) for column in zip(*ratios, strict=True))
        print(f"median of {len(ratios)}: throughput x {speed:.2f}, worker CPU per job x {cost:.2f}")
        for side in (service, hand_written):
            times = side.latency(options.samples)
            print(
                f"enqueue to start, {side.name}: median {statistics.median(times):.1f} ms, "
                f"99th percentile {times[int(len(times) * 0.99)]:.1f} ms"
            )
