"""Redis refuses, forgets its clients, changes its role or stands still: workers stay, and each job has one run.

In the middle of it jobs wait, run, and end.
"""

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from ..contract.installed import Installed
from ..contract.processes import Process, free_ports, until
from ..contract.service import Service, running
from ..contract.valkey import ask, start_node, start_sentinel
from .foreign import foreign

SECONDS = 4  # that it lasts
AHEAD = """import time
really = time.time
time.time = lambda: really() + 3600
"""
SPIN = "while true do end"


@dataclass
class Load:
    """Jobs that wait, run and end, each with its key."""

    service: Service
    jobs: dict[str, str] = field(default_factory=dict)

    def submit(self, label: str, seconds: float, **query: Any) -> None:
        key = f"{label}-{len(self.jobs)}"
        self.jobs[key] = self.service.submit("effect", {"key": key, "seconds": seconds}, **query)

    def check(self, within: float, runs: int = 1) -> None:
        """Each has succeeded with so many runs at most and one charge."""
        for key, job in self.jobs.items():
            assert self.service.wait(job, within=within)["attempts"] <= runs, key
            assert 1 <= len(self.service.effects(label=f"start {key}")) <= runs, key
        assert {charge["order_id"] for charge in self.service.charges()} >= set(self.jobs)
        assert self.service.dead_letters() == []


@dataclass(frozen=True)
class Refusal:
    """A command of an operator and the one that undoes it."""

    begin: Callable[[Service], object]
    end: Callable[[Service], object]


def command(*words: str) -> Callable[[Service], str]:
    return lambda service: ask(service, *words)


def spin(service: Service) -> object:
    """A script that does not end; Redis then answers BUSY."""
    ask(service, "CONFIG", "SET", "busy-reply-threshold", "100")
    url = service.environment["REDIS_URL"]
    code = f"import redis; redis.Redis.from_url({url!r}, socket_timeout=60).eval({SPIN!r}, 0)"
    return service.start("script", service.installed.python, "-c", code)


def forbid(service: Service) -> None:
    """The users are being changed: nothing is allowed for a while but to change it back."""
    ask(service, "ACL", "SETUSER", "operator", "on", ">secret", "allcommands", "allkeys", "allchannels")
    ask(service, "ACL", "SETUSER", "default", "-@all", "+ping", "+auth", "+hello", "+client", "+select")


def allow(service: Service) -> None:
    url = service.environment["REDIS_URL"].replace("://", "://operator:secret@")
    code = f"import redis; redis.Redis.from_url({url!r}).execute_command('ACL SETUSER default +@all')"
    subprocess.run([service.installed.python, "-c", code], check=True)


def kill_clients(service: Service) -> None:
    for _ in range(5):
        ask(service, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        time.sleep(SECONDS / 10)


def restart(service: Service) -> None:
    service.broker.kill_group()
    service.start_broker()


def with_password(service: Service) -> None:
    url = service.environment["REDIS_URL"].replace("://", "://:secret@")
    code = f"import redis; redis.Redis.from_url({url!r}).config_set('requirepass', '')"
    subprocess.run([service.installed.python, "-c", code], check=True)


REFUSALS = {
    "replica": Refusal(command("REPLICAOF", "127.0.0.1", "1"), command("REPLICAOF", "NO", "ONE")),
    "no replicas": Refusal(
        command("CONFIG", "SET", "min-replicas-to-write", "1"), command("CONFIG", "SET", "min-replicas-to-write", "0")
    ),
    "no memory": Refusal(command("CONFIG", "SET", "maxmemory", "1"), command("CONFIG", "SET", "maxmemory", "0")),
    "a script": Refusal(spin, command("SCRIPT", "KILL")),
    "no permission": Refusal(forbid, allow),
    "a password": Refusal(command("CONFIG", "SET", "requirepass", "secret"), with_password),
    "clients killed": Refusal(kill_clients, lambda _: None),
    "clients paused": Refusal(command("CLIENT", "PAUSE", str(SECONDS * 1000)), command("CLIENT", "UNPAUSE")),
    "killed": Refusal(restart, lambda _: None),
    "frozen": Refusal(lambda service: service.broker.freeze(), lambda service: service.broker.thaw()),
}
BY_CI = ("replica", "no memory")


@pytest.fixture(scope="module")
def served(installed: Installed) -> Iterator[Service]:
    with running(installed, workers=2) as service:
        yield service


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in BY_CI else pytest.mark.thorough) for kind in REFUSALS]
)
def test_workers_stay_and_each_job_runs_once_while_redis_refuses(served: Service, kind: str) -> None:
    workers, load = {worker.pid for worker in served.workers}, Load(served)
    for seconds in (0.2, 1.5, 2, SECONDS / 2, SECONDS + 2):
        load.submit(kind, seconds)
        load.submit(kind, seconds, delay=1)
    served.told(f"start {next(iter(load.jobs))}")
    REFUSALS[kind].begin(served)
    began = time.monotonic()
    try:
        if kind not in ("clients killed", "killed"):
            until(lambda: served.post("noop").status_code == 503, 5, "the API answers 503")
        until(lambda: time.monotonic() - began > SECONDS, SECONDS + 1)
    finally:
        REFUSALS[kind].end(served)
    load.check(within=30)
    assert {worker.pid for worker in served.workers} == workers
    served.wait(served.submit("noop"), within=10)
    until(lambda: served.health()["ok"], 20, served.health)


def test_an_outage_longer_than_the_lease_starts_no_running_job_again(installed: Installed) -> None:
    with running(installed, workers=2, lease=3, renewal=1) as service:
        job = service.submit("mark", {"label": "long", "seconds": 14})
        waiting = service.submit("mark", {"label": "waits"}, delay=5)
        service.told("long")
        service.broker.freeze()
        frozen = time.monotonic()
        until(lambda: time.monotonic() - frozen > 6, 7)
        service.broker.thaw()
        assert service.wait(job, within=30)["attempts"] == 1
        assert service.wait(waiting)["attempts"] == 1
        assert len(service.effects(label="long")) == len(service.effects(label="waits")) == 1


def test_a_worker_whose_clock_is_an_hour_ahead_takes_nothing_and_dies_like_others(
    installed: Installed, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(AHEAD)
    with running(installed, workers=1, lease=3, renewal=1) as service:
        job = service.submit("mark", {"label": "long", "seconds": 6})
        service.told("long")
        ahead: Process = service.start_worker(pythonpath=tmp_path)
        service.wait_for_workers(2)
        assert service.wait(job)["attempts"] == 1
        assert len(service.effects(label="long")) == 1
        ahead.kill_group()
        service.wait_for_workers(1, within=15)
        service.workers[0].stop()
        until(lambda: not service.health()["ok"], 15)


def test_jobs_go_on_through_a_planned_failover_and_the_password_is_decoded(installed: Installed) -> None:
    """Sentinel makes the replica the master and, again, the first one; both want a password with special characters."""
    sentinel, first, second = free_ports(3)
    password = "p@ss/w:rd;%"
    url = f"sentinel://:p%40ss%2Fw%3Ard%3B%25@127.0.0.1:{sentinel}/0"
    service = Service(installed, {"REDIS_URL": url, "SENTINEL_MASTER": "jobs"})
    try:
        start_node(service, first)
        start_node(service, second, "--replicaof", f"127.0.0.1 {first}")
        start_sentinel(service, sentinel, first)
        until(lambda: f"127.0.0.1:{second}" in ask(service, "SENTINEL", "REPLICAS", "jobs", port=sentinel), 20)
        ask(service, "SENTINEL", "SET", "jobs", "auth-pass", password, port=sentinel)
        for node in (second, first):
            ask(service, "CONFIG", "SET", "masterauth", password, port=node)
            ask(service, "CONFIG", "SET", "requirepass", password, port=node)
        service.start_gateway()
        service.start_api()
        for _ in range(2):
            service.start_worker()
        service.wait_for_workers(2, within=40)
        workers, load = {worker.pid for worker in service.workers}, Load(service)
        for number in range(40):
            load.submit(f"order {number}", 0.2)
        for charges, master in ((5, second), (15, first)):
            until(lambda charges=charges: len(service.charges()) >= charges, 60, f"{charges} charges")
            until(lambda: "OK" in failover(service, sentinel), 30, "a failover begins")
            until(
                lambda master=master: str(master) in ask(service, "SENTINEL", "MASTER", "jobs", port=sentinel),
                30,
                f"{master} is the master",
            )
        load.check(within=60, runs=3)  # a failover loses what the replica has not got: such a job's end, too
        assert {worker.pid for worker in service.workers} == workers
    finally:
        service.close()


def failover(service: Service, sentinel: int) -> str:
    try:
        return str(ask(service, "SENTINEL", "FAILOVER", "jobs", port=sentinel)).replace("True", "OK")
    except subprocess.CalledProcessError:  # the one before is not over
        return ""


OURS = "other.conf.broker_transport_options = {'sep': ':', 'priority_steps': list(range(10))}"  # as in broker.py


@pytest.mark.parametrize("priority", [3, 9])
def test_a_job_of_another_program_in_a_list_that_no_worker_reads_is_found(served: Service, priority: int) -> None:
    foreign(served, f"send_task('mark', ('stray',), queue='bulk', priority={priority})")
    assert "queue bulk holds 1 messages" in " ".join(served.cli("doctor", code=1).split())
    ask(served, "DEL", f"bulk\x06\x16{priority}")
    assert "queue bulk " not in served.cli("doctor")


@pytest.mark.parametrize("priority", [-3, 5.5, 10**30, "7", [1]])
def test_a_priority_that_no_queue_has_makes_no_job_unreadable(served: Service, priority: object) -> None:
    job = str(uuid4())
    foreign(served, f"send_task('ends', ('error', 'x'), task_id='{job}', queue='default', priority={priority!r})", OURS)
    until(lambda: served.http.get(f"/api/v1/jobs/{job}").status_code != 404, 20, "its worker has it")
    served.wait(job, "failed")
    assert served.status(job)["priority"] in range(10)
    assert served.get(f"/dead-letters/{job}")["reason"] == "unexpected"
    assert served.http.get("/console/dead-letters").status_code == 200
