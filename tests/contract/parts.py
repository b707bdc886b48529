"""The processes of one service: separate, on free loopback ports, each with a log that a failing test shows."""

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any, ClassVar

import httpx

from .installed import Installed
from .processes import Process, free_ports, listening, until

START_BROKER = """
import os, sys
from pathlib import Path
from {package}.dev.broker import broker_command
command = broker_command(Path(sys.argv[1]), int(sys.argv[2]))
os.execv(command[0], command)
"""
QUIET = {
    "PATH": os.environ["PATH"],
    "HOME": os.environ.get("HOME", "/"),
    "LANG": "C.UTF-8",
    "COLUMNS": "200",
    "NO_COLOR": "1",
}


class Parts:
    """Broker, gateway, API, workers and schedulers, started one by one, and all ended by `close`."""

    shown: ClassVar[list["Parts"]] = []
    """Those whose logs a failing test shows: the open ones, and what the running test has closed."""
    _count = 0

    def __init__(self, installed: Installed, settings: Mapping[str, Any] | None = None) -> None:
        Parts._count += 1
        self.installed = installed
        self.name = f"service-{Parts._count}"
        self.folder = installed.folder / "var" / "contract" / self.name
        (self.folder / "logs").mkdir(parents=True)
        ports = free_ports(3)
        self.broker_port, self.gateway_port, self.api_port = ports
        self.environment = {
            **QUIET,
            **installed.stack.environment(self.broker_port),
            "API_PORT": str(self.api_port),
            "PAYMENT_GATEWAY_URL": f"http://127.0.0.1:{self.gateway_port}",
            **{name.upper(): str(value) for name, value in (settings or {}).items()},
        }
        token = self.environment.get("API_TOKENS", "").partition(",")[0]
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.api_port}",
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=10,
        )
        self.gateway = httpx.Client(base_url=f"http://127.0.0.1:{self.gateway_port}", timeout=10)
        self.processes: list[Process] = []
        self.open = True
        Parts.shown.append(self)

    def start(self, name: str, *command: str | Path, **settings: Any) -> Process:
        """Any command as one more process, ended with the service."""
        process = Process(
            name,
            command,
            cwd=self.folder,
            env={**self.environment, **{key.upper(): str(value) for key, value in settings.items()}},
            log=self.folder / "logs" / f"{len(self.processes):02}-{name}.log",
        )
        self.processes.append(process)
        return process

    def start_broker(self) -> Process:
        """The embedded broker on its file: started again, it knows what it knew."""
        code, data = START_BROKER.format(package=self.installed.package), self.folder / "broker"
        self.broker = self.start("broker", self.installed.python, "-c", code, data, str(self.broker_port))
        self._until_listening(self.broker, self.broker_port)
        return self.broker

    def start_gateway(self) -> Process:
        module = f"{self.installed.package}.dev.gateway"
        gateway = self.start("gateway", self.installed.python, "-m", module, "--port", str(self.gateway_port))
        self._until_listening(gateway, self.gateway_port)
        return gateway

    def start_api(self, *arguments: str) -> Process:
        self.api = self.start("api", self.installed.script, "api", *arguments)
        self._until_listening(self.api, self.api_port)
        return self.api

    def start_worker(self, *queues: str, **settings: Any) -> Process:
        """A worker on these queues, or on all; it may need a few seconds until it takes jobs."""
        options = [part for queue in queues for part in ("--queue", queue)]
        return self.start("worker", self.installed.script, "worker", *options, **settings)

    @property
    def workers(self) -> list[Process]:
        """Those that still run, oldest first."""
        return [process for process in self.processes if process.name == "worker" and process.returncode is None]

    def start_scheduler(self) -> Process:
        return self.start("scheduler", self.installed.script, "scheduler")

    @contextmanager
    def supervised_worker(self) -> Generator[None, None, None]:
        """A worker that is started again whenever it dies, as a container platform does."""
        over = Event()

        def supervise() -> None:
            while not over.is_set():
                worker = self.start_worker()
                while worker.returncode is None and not over.wait(0.1):
                    pass

        thread = Thread(target=supervise)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def close(self) -> None:
        """Nothing of it runs any more; its logs stay until the session ends."""
        self.http.close()
        self.gateway.close()
        for process in reversed(self.processes):
            process.kill_group()
        self.open = False

    def _until_listening(self, process: Process, port: int) -> None:
        until(
            lambda: listening(port) or process.returncode is not None,
            60,
            lambda: f"{process.name} does not listen:\n{process.log.read_text()}",
        )
        assert process.returncode is None, f"{process.name} ended at once:\n{process.log.read_text()}"
