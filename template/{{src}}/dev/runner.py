"""`dev`: the whole service from one command, restarted when its code changes, stopped without losing a job.

A broker or a PAYMENT_GATEWAY_URL of your own wins over the embedded server and the fake gateway.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path

from ..queues import QUEUES
from ..settings import Settings, settings
from . import EmbeddedUnavailable
from .broker import NAME, PORT, UI_PORT, broker_command, environment, is_answering
from .embedded import free_port
from .processes import Child, Processes

PACKAGE = __name__.partition(".")[0]
SOURCE = Path(__file__).parents[1]
VAR = Path("var")
GATEWAY_PORT = 8900  # if free
READY_WITHIN = 20.0  # seconds; then the overview comes anyway
FAILURE = '{"fail": [{"status": 503, "times": 2}]}'
ORDER = '{"order_id": "42", "amount_cents": 1999}'
LOOK_EVERY = 0.5  # seconds between looks for changed code
STARTED_WITHIN = 10.0  # seconds; a part that lived longer is started again when it ends
RESTART_PAUSE = 1.0  # seconds, doubled for each restart of a part up to a minute


def dev() -> int:
    """Run everything until Ctrl-C or SIGTERM.

    Returns 0 if it was stopped, 1 if its broker ended, or a part soon after its start, 2 if it could not start.
    """
    if sys.platform == "win32":
        return _refuse("`dev` needs Linux or macOS as workers do: run it in WSL2.")
    try:
        with _only_one_here():
            return asyncio.run(_dev(settings()))
    except EmbeddedUnavailable as error:
        return _refuse(str(error))


async def _dev(config: Settings) -> int:
    stop = asyncio.Event()
    env = {"LOG_FORMAT": "console"} if config.log_format == "auto" else {}
    own_gateway = "payment_gateway_url" not in config.model_fields_set
    port, gateway_port = _preferred(PORT), _preferred(GATEWAY_PORT)
    ui_port = UI_PORT and _preferred(UI_PORT)
    pages = {f"{NAME.title()} UI": f"http://127.0.0.1:{ui_port}"} if ui_port and not config.has_broker else {}
    wanted: int | None = getattr(config, "api_port", None)  # not there without an API
    api_port = None if wanted is None else _preferred(wanted)
    if not config.has_broker:
        env |= environment(port)
    if own_gateway:
        env["PAYMENT_GATEWAY_URL"] = f"http://127.0.0.1:{gateway_port}"
    service = service_commands(api_port)
    for name in ("admin", "flower"):  # where the service has them
        if find_spec(f".{name}", __package__):
            variables, rows = import_module(f".{name}", __package__).prepare(_preferred)
            env, pages = env | variables, pages | rows
            service[name] = [sys.executable, "-m", PACKAGE, name]
    async with Processes(env, _printer()) as processes:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, _asked_to_stop, stop, processes)
        if not config.has_broker:
            command = await asyncio.to_thread(broker_command, VAR / NAME, port, ui_port)
            await start_broker(processes, command, port)
        if own_gateway:
            gateway = [sys.executable, "-m", f"{PACKAGE}.dev.gateway", "--port", str(gateway_port)]
            await processes.start("gateway", gateway)
        await start_service(processes, service)
        printing = asyncio.create_task(_print_overview_when_ready(processes, env, pages, api_port))
        crash = await _until_stopped(stop, processes, service)
        printing.cancel()
        await processes.stop(*service)  # the broker and the gateway stay until the workers have drained
    if crash is None:
        return 0
    print(f"\n{crash.epitaph}; its last lines:", file=sys.stderr)
    print(*crash.tail, sep="\n", file=sys.stderr)
    return 1


async def start_broker(processes: Processes, command: Sequence[str], port: int) -> None:
    """Start the embedded server and wait until it answers. Raises EmbeddedUnavailable if it ends instead."""
    await processes.start(NAME, command)
    crash = asyncio.create_task(processes.crash())
    while not is_answering(port):  # reading much data takes a while
        if crash.done():
            raise EmbeddedUnavailable(f"{NAME} did not start:\n" + "\n".join(crash.result().tail))
        await asyncio.sleep(0.02)
    crash.cancel()


def service_commands(api_port: int | None) -> dict[str, list[str]]:
    """The service's processes by name: a worker on all queues, one that keeps the last queue moving, and the others.

    `api_port`: where to serve the HTTP API; None where there is none.
    """
    arguments = {"worker": ["worker"], "scheduler": ["scheduler"]}
    if len(QUEUES) > 1:
        arguments[f"worker-{QUEUES[-1].name}"] = ["worker", "--queue", QUEUES[-1].name]
    if api_port is not None:
        arguments["api"] = ["api", "--port", str(api_port)]
    return {name: [sys.executable, "-m", PACKAGE, *given] for name, given in arguments.items()}


async def start_service(processes: Processes, service: Mapping[str, Sequence[str]]) -> None:
    """Start these; a worker may take its whole stop grace to end."""
    for name, command in service.items():
        await processes.start(name, command, grace=settings().stop_grace if name.startswith("worker") else 5.0)


async def _until_stopped(
    stop: asyncio.Event, processes: Processes, service: Mapping[str, Sequence[str]]
) -> Child | None:
    """Restart the service when its code changes, and a part of it that ends, as a platform would.

    Returns the child without which it cannot continue, None when asked to stop. A part that ends soon after its start
    would end again: after an edit it waits for the next one.
    """
    stopped, crash = asyncio.create_task(stop.wait()), asyncio.create_task(processes.crash())
    seen, edited = _code(), False
    restarts: Counter[str] = Counter()
    while not stop.is_set():
        await asyncio.wait([stopped, crash], timeout=LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED)
        if crash.done() and not stop.is_set():
            ended = crash.result()
            crash = asyncio.create_task(processes.crash())
            if ended.name in service and (ended.lasted > STARTED_WITHIN or restarts[ended.name]):
                pause = min(60.0, RESTART_PAUSE * 2 ** restarts[ended.name])
                print(f"{ended.epitaph}: it starts again in {pause:g} s", flush=True)
                restarts[ended.name] += 1
                await asyncio.wait([stopped], timeout=pause)
                if not stop.is_set():
                    await start_service(processes, {ended.name: service[ended.name]})
            elif edited and ended.name in service:
                print(f"{ended.name} ended: it starts again when you have edited the code", flush=True)
            else:
                return ended
        if (now := _code()) != seen and not stop.is_set():
            changed = sorted(path.relative_to(SOURCE).as_posix() for path, _ in now.items() ^ seen.items())
            print(f"changed: {', '.join(dict.fromkeys(changed))}; restarting", flush=True)
            seen, edited = now, True
            await processes.stop(*service)
            if not stop.is_set():
                await start_service(processes, service)
    crash.cancel()
    return None


def _code() -> Mapping[Path, int]:
    found = {}
    for path in SOURCE.rglob("*.py"):
        with suppress(FileNotFoundError):  # editors replace files
            found[path] = path.stat().st_mtime_ns
    return found


def _asked_to_stop(stop: asyncio.Event, processes: Processes) -> None:
    if stop.is_set():
        return processes.kill()
    print("\nstopping: running jobs may finish; press Ctrl-C again to kill them", flush=True)
    return stop.set()


@contextmanager
def _only_one_here() -> Generator[None]:
    """Two servers on one append-only file would destroy it."""
    import fcntl

    VAR.mkdir(exist_ok=True)
    with (VAR / "dev.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EmbeddedUnavailable(f"`dev` already runs in {Path.cwd()}: stop that one first") from None
        yield


def _preferred(port: int) -> int:
    """This port if nothing listens on it, else a free one."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return free_port()
    return port


def _printer() -> Callable[[str, str], None]:
    colours = cycle(range(31, 37))
    styles: dict[str, str] = defaultdict(lambda: f"\x1b[{next(colours)}m")
    plain = "NO_COLOR" in os.environ or not sys.stdout.isatty()

    def show(name: str, line: str) -> None:
        label = f"{name:<13}|"
        with suppress(OSError):  # the terminal may be gone; the workers still need to drain
            print(f"{label} {line}" if plain else f"{styles[name]}{label}\x1b[0m {line}", flush=True)

    return show


async def _print_overview_when_ready(
    processes: Processes, env: Mapping[str, str], pages: Mapping[str, str], api_port: int | None
) -> None:
    """Below the banners of all processes, where it is seen."""
    deadline = time.monotonic() + READY_WITHIN
    while await processes.run([sys.executable, "-m", PACKAGE, "health"]) and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
    script = Path(sys.argv[0]).name
    command = f"python -m {PACKAGE}" if script == "__main__.py" else script
    rows = {**pages}
    if api_port:
        served = f"http://127.0.0.1:{api_port}"
        rows |= {"console": f"{served}/console", "HTTP API": f"{served}/docs", "metrics": f"{served}/metrics"}
    if url := env.get("PAYMENT_GATEWAY_URL"):
        rows["payment gateway"] = url
        rows["make it fail"] = f"curl {url}/control -d '{FAILURE}'"
    variable, *_ = environment(0)
    if address := env.get(variable):
        rows["other terminals"] = f"export {variable}={address}"
    rows["submit a job"] = f"{command} run process_order --data '{ORDER}' --wait"
    print(*("", *(f"  {name:<17}{value}" for name, value in rows.items()), ""), sep="\n", flush=True)


def _refuse(why: str) -> int:
    print(f"error: {why}", file=sys.stderr)
    return 2
