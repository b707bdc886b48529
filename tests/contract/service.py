"""A service as its users meet it: seen by HTTP, commands and the payment gateway; nothing here knows the job engine."""

import json
import re
import resource
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import httpx

from .installed import Installed
from .parts import Parts
from .processes import until

FINAL = ("succeeded", "failed", "cancelled")


class Service(Parts):
    """The running parts and the ways to talk to them. Ids are those of jobs; times are seconds."""

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

    def wait_for_workers(self, count: int, within: float = 20) -> None:
        """Until exactly so many workers are known to live."""
        until(
            lambda: len(self.health().get("workers", [])) == count, within, lambda: f"{count} workers: {self.health()}"
        )

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

    def inject(self, kind: str, *, queue: str, job: str) -> str:
        """A message that no client of ours would send: "pickled", "truncated" or "unknown"."""
        stack, python = self.installed.stack, self.installed.python
        return stack.inject(python, self.folder, self.broker_port, kind=kind, queue=queue, job=job)


@contextmanager
def running(installed: Installed, workers: int = 1, **settings: Any) -> Generator[Service, None, None]:
    """A service of its own: broker, gateway, API and workers on all queues; `settings` go to its environment."""
    service = Service(installed, settings)
    try:
        service.start_broker()
        service.start_gateway()
        for _ in range(workers):  # while the API starts
            service.start_worker()
        service.start_api()
        service.wait_for_workers(workers)
        yield service
    finally:
        service.close()


def processor_time() -> float:
    """Seconds that the commands that have ended so far used."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
