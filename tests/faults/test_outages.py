"""The broker is cut off, frozen, slow or gone, or Redis refuses what it is asked: no job is lost or doubled.

Meanwhile the API answers within three seconds, with 503 where it cannot do what it is asked. The workers stay, or end
with an exit code other than 0, so that whoever watches them starts others; afterwards jobs go on.
"""

import socket
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from itertools import count
from urllib.parse import urlsplit

import pytest

from ..contract.installed import Installed
from ..contract.processes import until
from ..contract.service import Service
from .tcp_proxy import TcpProxy

LEASE, RENEWAL = 12, 4  # seconds
LONG = LEASE + 2
AT_ONCE = 3.0  # seconds in which the API answers
NOISE = 1.5  # seconds that a busy machine may add
BUSY = "local began = redis.call('TIME')[1] while redis.call('TIME')[1] - began < 60 do end"
numbers = count()

thorough = pytest.mark.thorough
SHORTER_THAN_A_RENEWAL, WITHIN_THE_LEASE, LONGER_THAN_THE_LEASE = 2, 8, 16  # seconds
NETWORK = [
    pytest.param("cut", 1),
    pytest.param("refused", WITHIN_THE_LEASE, marks=thorough),
    pytest.param("frozen", WITHIN_THE_LEASE, marks=thorough),
    pytest.param("frozen", LONGER_THAN_THE_LEASE),
    pytest.param("refused", SHORTER_THAN_A_RENEWAL, marks=thorough),
    pytest.param("frozen", SHORTER_THAN_A_RENEWAL, marks=thorough),
    pytest.param("refused", LONGER_THAN_THE_LEASE, marks=thorough),
    pytest.param("slow", WITHIN_THE_LEASE, marks=thorough),
    pytest.param("refused", 60, marks=thorough),
    pytest.param("frozen", 60, marks=thorough),
]
# What is said to Redis, and what ends it.
REFUSALS = {
    "it has become a replica": ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
    "its memory is full": ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
    "its replicas are away": ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
    "it has another password": ("CONFIG SET requirepass another", "CONFIG SET requirepass ''"),
    "it closes all connections": ("CLIENT KILL TYPE normal", ""),
    "it stands still": ("CLIENT PAUSE 5000 ALL", ""),
    "it takes no writes": ("CLIENT PAUSE 5000 WRITE", ""),
    "a script does not end": (BUSY, "SCRIPT KILL"),
    "it has forgotten its scripts": ("SCRIPT FLUSH", ""),
    "its user may do nothing": ("ACL SETUSER default nocommands +acl", "ACL SETUSER default allcommands"),
}
IN_CI = ("it has become a replica", "it has another password")


class Redis:
    """A connection that was there, and logged in, before the outage."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._replies = self._socket.makefile("rb")

    def do(self, *parts: str, wait: bool = True) -> bytes:
        """The first line of the reply; fails if it is an error."""
        self._socket.sendall(
            "".join([f"*{len(parts)}\r\n", *(f"${len(part)}\r\n{part}\r\n" for part in parts)]).encode()
        )
        reply = self._replies.readline() if wait else b""
        assert not reply.startswith(b"-"), f"{parts}: {reply}"
        return reply

    def close(self) -> None:
        self._replies.close()
        self._socket.close()


class Load:
    """Jobs that are submitted before and during an outage, each under a key, and seen to their ends."""

    def __init__(self, service: Service) -> None:
        self.service, self.number = service, next(numbers)
        self.jobs: dict[str, str] = {}
        self.refused: set[str] = set()
        self.workers_gone = len(self.exit_codes())

    def begin(self) -> None:
        """One job longer than a lease, short ones and one that waits for its time; the long one has begun."""
        self.submit("long", seconds=LONG)
        for name in ("first", "second", "third"):
            self.submit(name, seconds=1)
        self.submit("later", delay=2)
        assert not self.refused
        self.service.told(f"start {self.key('long')}")

    def go_on(self, seconds: float) -> None:
        """Submit one job after the other for so long."""
        deadline = time.monotonic() + seconds
        for name in count():
            self.submit(str(name))
            time.sleep(0.3)
            if time.monotonic() > deadline:
                return

    def key(self, name: str) -> str:
        return f"{name}-{self.number}"

    def submit(self, name: str, seconds: float = 0, delay: float = 0) -> None:
        key, began = self.key(name), time.monotonic()
        options = {"delay": delay} if delay else {}
        answer = self.service.post("effect", {"key": key, "seconds": seconds}, key=key, **options)
        taken = time.monotonic() - began
        assert answer.status_code in (200, 202, 503), f"{key}: {answer.status_code} {answer.text}"
        assert taken <= AT_ONCE + NOISE, f"{key}: {answer.status_code} after {taken:.1f} s"
        if answer.status_code == 503:
            self.refused.add(name)
        else:
            self.refused.discard(name)
            self.jobs[key] = answer.json()["id"]

    def end(self, *, runs: int = 1) -> None:
        """All that was accepted has one effect, after at most so many runs, and so has what is submitted again."""
        service = self.service
        again = time.monotonic() + 30
        while self.refused and time.monotonic() < again:
            for name in sorted(self.refused):
                self.submit(name)
            time.sleep(0.5)
        assert not self.refused, f"503 for ever: {self.refused}"
        for job in self.jobs.values():
            service.wait(job, within=60)
        ran = {key: len(service.effects(label=f"start {key}")) for key in self.jobs}
        assert not {key: times for key, times in ran.items() if not 1 <= times <= runs}, "each ran once"
        assert [len(service.charges(key=key)) for key in self.jobs] == [1] * len(self.jobs)
        service.wait(service.submit("noop"), within=30)
        until(lambda: service.health()["ok"], 60, service.health)
        assert 0 not in self.exit_codes()[self.workers_gone :]

    def exit_codes(self) -> list[int]:
        """Of the workers that are gone, in their order."""
        codes = [process.returncode for process in self.service.processes if process.name == "worker"]
        return [code for code in codes if code is not None]


@contextmanager
def watched(service: Service) -> Generator[Service, None, None]:
    """With two workers, started again when they end, and all other parts; the broker is there."""
    service.start_gateway()
    with service.supervised_worker(), service.supervised_worker():
        service.start_api()
        service.wait_for_workers(2)
        yield service


@pytest.fixture(scope="module")
def behind_a_proxy(installed: Installed) -> Iterator[tuple[Service, TcpProxy]]:
    service = Service(installed, {"lease": LEASE, "renewal": RENEWAL})
    with closing(service), TcpProxy(service.broker_port) as proxy:
        service.start_broker()
        service.environment[installed.stack.broker_variable] = installed.stack.broker_url.format(port=proxy.port)
        with watched(service):
            yield service, proxy


@pytest.fixture(scope="module")
def on_redis(installed: Installed) -> Iterator[tuple[Service, Redis]]:
    service = Service(installed, {"lease": LEASE, "renewal": RENEWAL})
    with closing(service):
        service.start_broker()
        port = urlsplit(service.environment["REDIS_URL"]).port
        assert port
        with watched(service), closing(Redis(port)) as redis:
            yield service, redis


@pytest.mark.parametrize(("kind", "seconds"), NETWORK)
def test_no_outage_of_the_network_costs_a_job(
    behind_a_proxy: tuple[Service, TcpProxy], kind: str, seconds: float
) -> None:
    service, proxy = behind_a_proxy
    load = Load(service)
    load.begin()
    try:
        if kind == "slow":
            proxy.delay = 0.2
        else:
            {"cut": proxy.cut, "refused": proxy.refuse, "frozen": proxy.freeze}[kind]()
        load.go_on(seconds)
    finally:
        proxy.delay = 0.0
        proxy.thaw()
        if kind == "refused":
            proxy.accept()
    server_takes_it_for_lost = service.installed.stack.name == "temporal" and seconds > LEASE
    load.end(runs=2 if server_takes_it_for_lost else 1)


@pytest.mark.parametrize("why", [pytest.param(why, marks=() if why in IN_CI else thorough) for why in REFUSALS])
def test_no_refusal_of_redis_costs_a_job(on_redis: tuple[Service, Redis], why: str) -> None:
    service, redis = on_redis
    load = Load(service)
    load.begin()
    begins, ends = REFUSALS[why]
    try:
        if begins == BUSY:
            redis.do("CONFIG", "SET", "busy-reply-threshold", "100")
            runaway = Redis(redis.port)
            runaway.do("EVAL", BUSY, "0", wait=False)
        else:
            redis.do(*begins.split())
        load.go_on(WITHIN_THE_LEASE)
    finally:
        if ends:
            redis.do(*(part.strip("'") for part in ends.split()))
    load.end()


def test_a_flushed_redis_loses_its_jobs_and_nothing_else(on_redis: tuple[Service, Redis]) -> None:
    """What Redis has forgotten is lost, also for those who wait for it; what runs ends, and the service goes on."""
    service, redis = on_redis
    running, waiting = (service.submit("mark", {"label": "flushed", "seconds": 3}, delay=delay) for delay in (0, 3600))
    service.told("flushed")
    redis.do("FLUSHALL")
    assert service.http.get(f"/api/v1/jobs/{waiting}").status_code == 404
    service.wait(service.submit("noop"), within=30)
    until(lambda: service.health()["ok"], 60, service.health)
    until(lambda: service.queue("default")["depth"] == 0, 30, lambda: service.queue("default"))
    assert service.http.get(f"/api/v1/jobs/{running}").status_code in (200, 404)
    assert len(service.effects(label="flushed")) == 1


@thorough
def test_a_user_of_redis_without_dangerous_commands_suffices(installed: Installed) -> None:
    service = Service(installed)
    with closing(service):
        service.start_broker()
        address = urlsplit(service.environment["REDIS_URL"])
        assert address.port
        with closing(Redis(address.port)) as redis:
            redis.do("ACL", "SETUSER", "jobs", "on", ">secret", "~*", "&*", "+@all", "-@dangerous", "-@admin")
            service.environment["REDIS_URL"] = f"redis://jobs:secret@127.0.0.1:{address.port}/0"
            service.start_scheduler()
            with watched(service):
                service.wait(service.submit("effect", {"key": "permitted"}))
                later = service.submit("mark", {"label": "later"}, delay=60)
                service.http.delete(f"/api/v1/jobs/{later}").raise_for_status()
                failed = service.submit("permanent", {"label": "fails"})
                service.wait(failed, "failed")
                service.http.post(f"/api/v1/dead-letters/{failed}/replay").raise_for_status()
                service.told("tick", 2)
                assert service.metrics()
                until(lambda: service.health()["ok"], 30, service.health)
                assert redis.do("ACL", "LOG") == b"*0\r\n", "no command was refused"
                service.cli("doctor")
