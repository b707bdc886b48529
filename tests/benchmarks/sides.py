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

PROBES = """
import time
from ..runtime import job
@job(retry=None)
def noop() -> None: ...
@job(retry=None)
def stamp(sent: float) -> float: return time.time() - sent
"""
FLAGS = ["--without-gossip", "--without-mingle", "--loglevel=WARNING"]


class Side:
    """One of the two apps: sends jobs to a queue, runs a worker on it. Each broker has its own `left` and `clear`."""

    slots = 2

    def __init__(self, name: str, app_path: str, module: str, queue: str, folder: Path, env: Mapping[str, str]) -> None:
        self.name, self.app_path, self.queue, self.folder = name, app_path, queue, folder
        self.env = {**os.environ, **env, "PYTHONPATH": str(folder), "LOG_LEVEL": "WARNING"}  # as FLAGS say to Celery
        self.module = import_module(module)

    def left(self) -> int:
        """Jobs that have not ended."""
        raise NotImplementedError

    def send(self, jobs: int) -> None:
        """Jobs that do nothing."""
        for _ in range(jobs):
            self.module.noop.delay()

    def clear(self) -> None:
        """Forget everything."""
        raise NotImplementedError

    def worker(self) -> subprocess.Popen[bytes]:
        own = ["-A", self.app_path, "worker", "-Q", self.queue, "-n", f"{self.queue}@%h", "-c", str(self.slots)]
        command = [sys.executable, "-m", "celery", *own, *FLAGS]
        return subprocess.Popen(command, env=self.env, cwd=self.folder, start_new_session=True)

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


def throughput(sides: Sequence[Side], turns: int, seconds: float) -> Generator[list[tuple[float, float]]]:
    """Of each turn and side, jobs per second and milliseconds of the worker's CPU per job.

    Each worker has a queue of its own to empty, and one is stopped (SIGSTOP) while the other works: on a machine whose
    speed changes within minutes, only what is seconds apart can be compared.
    """
    for side in sides:
        side.clear()
    workers = {side: side.worker() for side in sides}
    try:
        for side in sides:
            side.send(1)
            while side.left():
                if workers[side].poll() is not None:
                    raise RuntimeError(f"the worker of {side.name} ended")
                time.sleep(0.02)
            time.sleep(0.5)
            os.killpg(workers[side].pid, signal.SIGSTOP)
        for number in range(turns):
            found = {}
            for side in sides[:: -1 if number % 2 else 1]:
                group = workers[side].pid
                side.send(max(0, int(1500 * seconds) - side.left()))  # more than a worker does in its turn
                os.killpg(group, signal.SIGCONT)
                time.sleep(0.2)
                began, cpu, left = time.perf_counter(), cpu_of(group), side.left()
                time.sleep(seconds)
                taken, cpu, done = time.perf_counter() - began, cpu_of(group) - cpu, left - side.left()
                os.killpg(group, signal.SIGSTOP)
                found[side] = done / taken, 1000 * cpu / done
            yield [found[side] for side in sides]
    finally:
        for process in workers.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGCONT)
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
                environment = dict(server.environment)
                ours = make("service", package, f"{package}.jobs.benchmark_probes", "default", folder, environment)
                second = environment["REDIS_URL"].removesuffix("/0") + "/1"  # a database each: `clear` empties one
                environment["REDIS_URL"] = os.environ["REDIS_URL"] = second
                yield ours, make("hand-written", "bare", "bare", "bare", folder, environment)
        finally:
            probes.unlink(missing_ok=True)


def compare(make: Callable[..., Side], bare: str, doc: str | None, packages: Sequence[str]) -> None:
    """Read the options, run both sides, print the ratios."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=1.5, help="of a turn")
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--slots", type=int, default=Side.slots, help="processes of each worker's pool")
    options = parser.parse_args()
    Side.slots = options.slots
    versions = {name: importlib.metadata.version(name) for name in packages}
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}")
    with on_one_broker(make, bare) as (service, hand_written):
        pairs = list(throughput((service, hand_written), options.turns, options.seconds))
        for what, number, unit in (("throughput", 0, "jobs/s"), ("worker CPU", 1, "ms a job")):
            ours, theirs = ([side[number] for side in column] for column in zip(*pairs, strict=True))
            low, ratio, high = statistics.quantiles((a / b for a, b in zip(ours, theirs, strict=True)), n=4)
            print(
                f"{what}: {statistics.median(ours):.2f} / {statistics.median(theirs):.2f} {unit}, ratio "
                f"{ratio:.2f} (middle half of {len(pairs)} turns: {low:.2f} to {high:.2f})",
                flush=True,
            )
        for side in (service, hand_written):
            times = side.latency(options.samples)
            print(
                f"enqueue to start, {side.name}: median {statistics.median(times):.1f} ms, "
                f"99th percentile {times[int(len(times) * 0.99)]:.1f} ms"
            )
