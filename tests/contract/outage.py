"""What shows only after a minute: started early in a session, looked at late, so that nobody waits for it."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from .installed import Installed
from .processes import Process, free_ports, until
from .service import Service, running

LONGER_THAN_A_SIGN_OF_LIFE_COUNTS = 65  # seconds


@dataclass(frozen=True)
class Outage:
    """A service whose broker is away, and one whose worker is frozen, since a moment of `time.monotonic()`."""

    service: Service
    worker: Process
    probe: str
    name: str
    frozen: Service
    frozen_name: str
    since: float

    def wait_until_it_shows(self) -> None:
        wait = LONGER_THAN_A_SIGN_OF_LIFE_COUNTS
        until(lambda: time.monotonic() - self.since > wait, wait)


@contextmanager
def outage(installed: Installed) -> Generator[Outage, None, None]:
    [port] = free_ports(1)
    probe = f"http://127.0.0.1:{port}/health"
    with running(installed, workers=0) as service, running(installed) as frozen:
        worker = service.start_worker(worker_port=port)
        service.wait_for_workers(1)
        name, frozen_name = (each.health()["workers"][0]["name"] for each in (service, frozen))
        service.cli("health", "--worker", name)
        frozen.cli("health", "--worker", frozen_name)
        assert httpx.get(f"{probe}/live").status_code == httpx.get(f"{probe}/ready").status_code == 200
        service.broker.kill_group()
        frozen.workers[0].freeze()
        yield Outage(service, worker, probe, name, frozen, frozen_name, time.monotonic())
