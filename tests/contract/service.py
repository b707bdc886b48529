"""A rendered service as its users meet it: installed, in separate processes, seen by HTTP, commands and gateway.

Nothing here knows the job engine; what differs between stacks is in stacks.py.
"""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any, ClassVar

import httpx
from copier import run_copy

from .processes import Process, free_ports, listening, until
from .stacks import STACKS, Stack

TEMPLATE = Path(__file__).parents[2]
FINAL = ("succeeded", "failed", "cancelled")
START_BROKER = """
import os, sys
from pathlib import Path
from {package}.dev.embedded import valkey_command
command = valkey_command(Path(sys.argv[1]), int(sys.argv[2]))
os.execv(command[0], command)
"""
QUIET = {
    "PATH": os.environ["PATH"],
    "HOME": os.environ.get("HOME", "/"),
    "LANG": "C.UTF-8",
    "COLUMNS": "200",
    "NO_COLOR": "1",
}


@dataclass(frozen=True)
class Installed:
    """One combination of answers, rendered and installed with the probe jobs among its own."""

    folder: Path
    stack: Stack
    package: str
    slug: str

    @classmethod
    def render(cls, folder: Path, stack: str, answers: Mapping[str, Any]) -> "Installed":
        """Render the working tree into `folder`, add the probes, and install it into its own environment."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Copier says that the working tree has uncommitted changes
            run_copy(
                str(TEMPLATE),
                folder,
                data={"stack": stack, **answers},
                defaults=True,
                quiet=True,
                vcs_ref="HEAD",
            )
        [package] = [path.parent.name for path in folder.glob("src/*/contract.py")]
        installed = cls(folder, STACKS[stack], package, str(answers.get("project_slug", package.replace("_", "-"))))
        jobs = folder / "src" / package / "jobs"
        shutil.copy(installed.stack.probes, jobs / "probes.py")
        uv = os.environ.get("UV") or shutil.which("uv")
        assert uv, "uv is not on PATH; the tests install the rendered service with it"
        environment = {**os.environ, "UV_PYTHON": os.environ.get("UV_PYTHON", sys.executable)}
        environment.pop("VIRTUAL_ENV", None)
        done = subprocess.run([uv, "sync", "--quiet"], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"`uv sync` of the rendered service failed:\n{done.stderr}"
        return installed

    @property
    def python(self) -> Path:
        return self.folder / ".venv" / "bin" / "python"

    @property
    def script(self) -> Path:
        return self.folder / ".venv" / "bin" / self.slug

    @contextmanager
    def running(self, workers: int = 1, **settings: Any) -> Generator["Service", None, None]:
        """A service of its own: broker, gateway, API and workers on all queues; `settings` go to its environment."""
        service = Service(self, settings)
        try:
            service.start_broker()
            service.start_gateway()
            service.start_api()
            for _ in range(workers):
                service.start_worker()
            service.wait_for_workers(workers)
            yield service
        finally:
            service.close()


class Service:
    """The processes of one service and the ways to talk to it. Ids are those of jobs; times are seconds."""

    shown: ClassVar[list["Service"]] = []
    """Those whose logs a failing test shows: the open ones, and what the running test has closed."""
    _count = 0

    def __init__(self, installed: Installed, settings: Mapping[str, Any] | None = None) -> None:
        Service._count += 1
        self.installed = installed
        self.name = f"service-{Service._count}"
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
        Service.shown.append(self)

    # Processes

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
        """The embedded broker on its append-only file: started again, it knows what it knew."""
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

    def wait_for_workers(self, count: int, within: float = 20) -> None:
        """Until exactly so many workers are known to live."""
        until(
            lambda: len(self.health().get("workers", [])) == count, within, lambda: f"{count} workers: {self.health()}"
        )

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
            20,
            lambda: f"{process.name} does not listen:\n{process.log.read_text()}",
        )
        assert process.returncode is None, f"{process.name} ended at once:\n{process.log.read_text()}"

    # HTTP

    def post(self, job: str, payload: object = None, *, key: str | None = None, **query: Any) -> httpx.Response:
        """One submission, whatever comes of it; `query` is delay, queue or priority."""
        headers = {"Idempotency-Key": key} if key else {}
        return self.http.post(f"/api/v1/jobs/{job}", json=payload or {}, headers=headers, params=query)

    def submit(self, job: str, payload: object = None, *, key: str | None = None, **query: Any) -> str:
        """The id of a new job."""
        answer = self.post(job, payload, key=key, **query)
        assert answer.status_code == 202, f"{job}: {answer.status_code} {answer.text}"
        return answer.json()["id"]

    def get(self, path: str, status: int = 200, **query: Any) -> Any:
        """The JSON at a path below /api/v1."""
        answer = self.http.get(f"/api/v1{path}", params=query)
        assert answer.status_code == status, f"GET {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def status(self, job: str) -> dict[str, Any]:
        return self.get(f"/jobs/{job}")

    def wait(self, job: str, *states: str, within: float = 30) -> dict[str, Any]:
        """The status once it is in one of these states (by default succeeded); fails early if it ends in another."""
        wanted = states or ("succeeded",)

        def reached() -> dict[str, Any] | None:
            status = self.status(job)
            if status["state"] in wanted:
                return status
            assert status["state"] not in FINAL, f"wanted {wanted}, but it ended: {json.dumps(status, indent=1)}"
            return None

        return until(reached, within, lambda: f"{wanted}: {json.dumps(self.status(job), indent=1)}")

    def result(self, job: str) -> Any:
        return self.get(f"/jobs/{job}/result")

    def queue(self, name: str) -> dict[str, Any]:
        [found] = [queue for queue in self.get("/queues") if queue["name"] == name]
        return found

    def dead_letters(self, **filters: Any) -> list[dict[str, Any]]:
        return self.get("/dead-letters", **filters)

    def health(self) -> dict[str, Any]:
        return self.http.get("/health/jobs").json()

    def metrics(self) -> dict[str, float]:
        """Each sample of /metrics by its name with labels, as printed."""
        lines = self.http.get("/metrics").raise_for_status().text.splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if line and line[0] != "#")
        return {name: float(value) for name, value in samples}

    def metric(self, name: str, **labels: str) -> float:
        """The sum over all samples of this name that have these labels."""
        return sum(
            value
            for sample, value in self.metrics().items()
            if re.fullmatch(rf"{name}(\{{.*\}})?", sample)
            and all(f'{label}="{wanted}"' in sample for label, wanted in labels.items())
        )

    # Command line

    def cli(self, *arguments: str, code: int = 0, within: float = 10, stdin: str = "", **settings: Any) -> str:
        """What a command prints; fails if it ends with another exit code or takes longer than `within` seconds.

        Those are seconds of processor time: on a shared machine the clock, which may show three times as many, also
        measures the neighbours.
        """
        before = processor_time()
        done = subprocess.run(
            [str(self.installed.script), *arguments],
            cwd=self.folder,
            env={**self.environment, **{key.upper(): str(value) for key, value in settings.items()}},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=3 * within,
        )
        taken = processor_time() - before
        said = f"`{' '.join(arguments)}` ended with {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == code, said
        assert "Traceback (most recent call last)" not in done.stderr, said
        assert taken <= within, f"`{' '.join(arguments)}` took {taken:.1f} s of processor time"
        return done.stdout if code == 0 else done.stdout + done.stderr

    def cli_json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.cli(*arguments, "--json", code=code))

    # The outside world

    def effects(self, **having: Any) -> list[dict[str, Any]]:
        """What jobs told the gateway, in the order in which it heard of it."""
        return self.gateway.get("/effects", params=having).raise_for_status().json()

    def charges(self, **having: Any) -> list[dict[str, Any]]:
        """What was charged, with the key and the number of requests for it."""
        return self.gateway.get("/charges", params=having).raise_for_status().json()

    def told(self, label: str, count: int = 1, within: float = 30) -> list[dict[str, Any]]:
        """The effects with this label once there are so many."""
        return until(
            lambda: found if len(found := self.effects(label=label)) >= count else [],
            within,
            lambda: f"{count} effects {label!r}, there are {self.effects(label=label)}",
        )

    def inject(self, kind: str, queue: str = "default", job: str = "noop") -> str:
        """A message that no client of ours would send: "pickled", "truncated" or "unknown"."""
        stack, python = self.installed.stack, self.installed.python
        return stack.inject(python, self.folder, self.broker_port, kind=kind, queue=queue, job=job)


def processor_time() -> float:
    """Seconds that the commands that have ended so far used."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
