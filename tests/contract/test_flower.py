"""Flower shows what workers do to those who have its login and to nobody else, changes nothing, and remembers."""

import json
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from .installed import Installed
from .processes import free_ports, listening, until
from .service import Service, running
from .test_cli import healthy, on_its_own

LOGIN = ("operator", "twelve-or-more")
OPEN = "/healthcheck"
PRIVATE = "mrs-miller-4711"

ROUTES = """
import json
from flower.urls import handlers
print(json.dumps([handler.regex.pattern if hasattr(handler, "regex") else handler[0] for handler in handlers]))
"""
SENDS_EVENTS = "import importlib, sys; print(importlib.import_module(sys.argv[1]).app.conf.worker_send_task_events)"


class Flower:
    """Flower beside a service, on free ports, and a client that knows its login."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.port, self.metrics_port = free_ports(2)
        once = httpx.Limits(max_keepalive_connections=0)  # Tornado closes a connection after it has refused a request
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", auth=LOGIN, timeout=10, limits=once)
        self.start()

    def start(self) -> None:
        self.process = self.service.start(
            "flower",
            self.service.installed.script,
            "flower",
            flower_port=self.port,
            flower_metrics_port=self.metrics_port,
            flower_basic_auth=f"somebody:another-password,{':'.join(LOGIN)}",
        )
        until(
            lambda: listening(self.metrics_port) or self.process.returncode is not None, 20, self.process.log.read_text
        )
        assert self.process.returncode is None, self.process.log.read_text()

    def tasks(self) -> dict[str, dict[str, Any]]:
        return self.http.get("/api/tasks").raise_for_status().json()

    def task(self, job: str, state: str, within: float = 20) -> dict[str, Any]:
        """What it says of a job once that is in this state, in Celery's words."""
        return until(
            lambda: found if (found := self.tasks().get(job, {})).get("state") == state else None,
            within,
            lambda: f"{state}: {self.tasks().get(job)}",
        )

    def until_it_hears(self) -> None:
        """What was sent before it listens it does not hear, so it is told again."""
        sent: set[str] = set()

        def heard() -> bool:
            sent.add(self.service.submit("noop"))
            return not sent.isdisjoint(self.tasks())

        until(heard, 60, self.process.log.read_text)

    def workers(self) -> list[str]:
        """The names of those that it has heard of, at least one."""
        return until(lambda: list(self.http.get("/api/workers", params={"status": "1"}).json()), 20)


@pytest.fixture(scope="module")
def flower(session_service: Service) -> Iterator[Flower]:
    session_service.wait_for_workers(1)
    started = Flower(session_service)
    started.workers()
    yield started
    assert started.process.stop(10) == 0
    started.http.close()


@pytest.fixture(scope="module")
def routes(installed: Installed) -> list[str]:
    """A path for each route of Flower's application."""
    patterns = json.loads(subprocess.check_output([installed.python, "-c", ROUTES], text=True))
    paths = [re.sub(r"\(\.[+*]\)|\.\*", "anything", pattern).rstrip("$").removesuffix("/?") for pattern in patterns]
    assert len(paths) > 30
    return [path if path.startswith("/") else f"/{path}" for path in paths]


def test_a_job_of_the_api_appears_with_name_runtime_and_retries(flower: Flower) -> None:
    job = flower.service.submit("flaky", {"label": str(uuid4()), "times": 2})
    task = flower.task(job, "SUCCESS")
    assert (task["name"], task["retries"]) == ("flaky", 2)
    assert task["runtime"] > 0
    assert task["worker"] in flower.workers()


@pytest.mark.parametrize(
    ("job", "payload", "state"),
    [
        ("permanent", {}, "FAILURE"),
        ("overrun", {"deaf": True}, "FAILURE"),
        ("poison", {}, "FAILURE"),
        ("exclusive_or_not", {"seconds": 0}, "REVOKED"),
        ("exclusive", {"seconds": 0}, "RETRY"),
    ],
)
def test_no_run_is_shown_as_going_on_when_it_has_ended(
    flower: Flower, job: str, payload: dict[str, Any], state: str
) -> None:
    """Also those for which Celery itself sends no event: skipped, waiting."""
    label = str(uuid4())
    if state in ("REVOKED", "RETRY"):
        flower.service.submit(job, {"label": label, "seconds": 3})
        flower.service.told(label)
    flower.task(flower.service.submit(job, {"label": label, **payload}), state)


@pytest.mark.parametrize("delay", [0, 0.5], ids=["running", "delayed"])
def test_a_cancelled_job_is_shown_as_revoked(flower: Flower, delay: float) -> None:
    label = str(uuid4())
    job = flower.service.submit("mark", {"label": label, "seconds": 30}, delay=delay)
    if not delay:
        flower.service.told(label)
    flower.service.http.delete(f"/api/v1/jobs/{job}").raise_for_status()
    flower.task(job, "REVOKED")


def test_arguments_and_results_are_shown_nowhere(flower: Flower) -> None:
    ended = flower.service.submit("mark", {"label": PRIVATE})
    flower.task(ended, "SUCCESS")
    runs = flower.service.submit("mark", {"label": PRIVATE, "seconds": 5})
    worker = flower.task(runs, "STARTED")["worker"]
    held = flower.http.get("/api/workers", params={"workername": worker, "refresh": "1"}).text
    assert runs in held
    pages = [held, *(flower.http.get(path).text for path in ("/api/tasks", f"/task/{ended}", f"/worker/{worker}"))]
    assert not [page for page in pages if PRIVATE in page]
    assert flower.http.get(f"/api/task/result/{ended}").status_code == 403
    assert flower.service.result(ended) == PRIVATE, "the API shows it"


def test_a_stranger_is_refused_on_every_route(flower: Flower, routes: list[str]) -> None:
    assert {"/metrics", "/logout", "/static/anything", "/api/tasks", OPEN} <= {*routes}
    guarded = [*routes, "/static/js/flower.js", "/favicon.ico", "//metrics", f"{OPEN}/", f"{OPEN}/../metrics"]
    answers = {
        (method, path): httpx.request(method, f"{flower.http.base_url}".rstrip("/") + path)
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
        for path in guarded
        if path != OPEN
    }
    assert {key: answer.status_code for key, answer in answers.items() if answer.status_code != 401} == {}
    assert all(answer.headers["www-authenticate"].startswith("Basic") for answer in answers.values())
    assert httpx.get(f"{flower.http.base_url}{OPEN}").text == "OK"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic !",
        "Basic b3BlcmF0b3I6",  # operator:
        "Basic b3BlcmF0b3I6d3JvbmctcGFzc3dvcmQ=",  # operator:wrong-password
        "Basic dHdlbHZlLW9yLW1vcmU=",  # the password alone
        "Basic w7Y6w7Y=",  # ö:ö
        "Bearer b3BlcmF0b3I6dHdlbHZlLW9yLW1vcmU=",  # the login itself
    ],
)
def test_what_is_no_login_opens_nothing(flower: Flower, header: str) -> None:
    for port in (flower.port, flower.metrics_port):
        assert httpx.get(f"http://127.0.0.1:{port}/metrics", headers={"Authorization": header}).status_code == 401


def test_a_stranger_is_refused_before_he_has_sent_his_body(flower: Flower) -> None:
    with socket.create_connection(("127.0.0.1", flower.port), timeout=5) as connection:
        connection.sendall(b"POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000000\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 401"


def test_each_login_opens(flower: Flower) -> None:
    for login in (LOGIN, ("somebody", "another-password")):
        assert httpx.get(f"{flower.http.base_url}/tasks", auth=login).status_code == 200


def test_passwords_are_not_written_to_the_log(flower: Flower) -> None:
    httpx.get(f"{flower.http.base_url}/tasks", auth=("operator", "a-wrong-password"))
    log = flower.process.log.read_text()
    assert "401 GET /tasks" in log
    assert "password" not in log
    assert LOGIN[1] not in log


def test_nothing_can_be_done_by_it(flower: Flower, routes: list[str]) -> None:
    """Shut down, revoke, leave a queue …: none is written down anywhere."""
    doing = [path for path in routes if re.match(r"/api/(worker|task)/.+/", path)]
    assert len(doing) >= 14
    answers = {path: flower.http.post(path.replace("anything", flower.workers()[0])) for path in doing}
    refused = {path for path, answer in answers.items() if answer.status_code == 403}
    assert {*doing} - refused == {"/api/task/info/anything"}
    assert answers["/api/task/info/anything"].status_code == 405


def test_metrics_have_a_port_of_their_own_that_leads_to_nothing_else(flower: Flower) -> None:
    alone = httpx.Client(base_url=f"http://127.0.0.1:{flower.metrics_port}", auth=LOGIN)
    flower.task(flower.service.submit("noop"), "SUCCESS")
    assert 'task="noop",type="task-succeeded"' in alone.get("/metrics").text
    for path in ("/", "/tasks", "/api/tasks", OPEN, "/static/js/flower.js"):
        assert alone.get(path).status_code == 404
    assert 'type="task-succeeded"' in flower.http.get("/metrics").text, "on the first port, too"


def test_what_it_saw_survives_its_restart_and_its_kill(flower: Flower) -> None:
    job = flower.service.submit("flaky", {"label": str(uuid4()), "times": 1})
    before = flower.task(job, "SUCCESS")
    kept = ("name", "state", "received", "started", "succeeded", "runtime", "retries", "worker")
    assert flower.process.stop(10) == 0
    for _ in range(2):
        flower.start()
        after = flower.tasks()[job]
        assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
        flower.process.kill_group()
    flower.start()
    flower.until_it_hears()


def refused(service: Service, **settings: Any) -> str:
    """What it says when it ends with exit code 2; but for these settings it could start."""
    good = {"flower_basic_auth": ":".join(LOGIN), "flower_port": next(free_ports(1))}
    given: dict[str, Any] = {**good, "flower_db": "var/other/state", **settings}
    return service.cli("flower", code=2, **given)


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_without_a_login_it_does_not_start(service: Service, address: str) -> None:
    said = service.cli("flower", code=2, flower_address=address, flower_port=next(free_ports(1)))
    assert "FLOWER_BASIC_AUTH is not set" in said
    assert "name:password" in said


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("flower_basic_auth", "admin", "login 1 is no name:password with at least 12 characters"),
        ("flower_basic_auth", "admin:admin", "login 1 is no name:password with at least 12 characters"),
        ("flower_basic_auth", "a:long-enough-1234,b:pässwörter-hübsch", "login 2 is no name:password"),
        ("flower_port", "http", "FLOWER_PORT"),
        ("flower_port", "0", "FLOWER_PORT"),
        ("flower_max_tasks", "0", "FLOWER_MAX_TASKS"),
        ("flower_db", "/proc/flower/state", "FLOWER_DB=/proc/flower/state cannot be written"),
        ("flower_address", "203.0.113.1", "Flower cannot listen on 203.0.113.1"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(service: Service, setting: str, value: str, told: str) -> None:
    said = refused(service, **{setting: value})
    assert told in said
    if setting == "flower_basic_auth":
        assert value.rpartition(":")[2] not in said.replace("at least 12 characters", "")


@pytest.mark.parametrize("setting", ["flower_port", "flower_metrics_port"])
def test_a_port_that_is_taken_is_named(service: Service, setting: str) -> None:
    said = refused(service, **{setting: service.api_port})
    assert f"{setting.upper()}={service.api_port}" in said


def test_a_missing_broker_address_is_named(service: Service) -> None:
    variable = service.installed.stack.broker_variable
    address = service.environment.pop(variable)
    try:
        said = service.cli("flower", code=2, flower_basic_auth=":".join(LOGIN))
    finally:
        service.environment[variable] = address
    assert f"{variable} is not set" in said


def test_without_the_broker_it_shows_what_it_knows_and_then_goes_on(installed: Installed) -> None:
    with running(installed) as service:
        flower = Flower(service)
        flower.workers()
        job = service.submit("noop")
        flower.task(job, "SUCCESS")
        service.broker.kill_group()
        assert flower.process.stop(10) == 0, "it can be stopped meanwhile"
        flower.start()
        assert job in flower.tasks()
        assert flower.http.get("/tasks").status_code == 200
        service.start_broker()
        service.wait_for_workers(1)
        until(lambda: service.post("noop").status_code == 202, 20)
        flower.until_it_hears()


def test_dev_starts_it_and_shows_its_address_and_a_login_made_up(installed: Installed) -> None:
    service = on_its_own(installed)
    try:
        dev = service.start("dev", installed.script, "dev")
        pattern = r"Flower +(http://127\.0\.0\.1:\d+)\n +Flower's login +(\w+), password (\S+)\n"
        url, name, password = until(lambda: re.findall(pattern, dev.log.read_text()), 90, dev.log.read_text)[0]
        assert len(password) >= 16
        assert httpx.get(f"{url}/tasks").status_code == 401
        job = service.submit("noop")
        until(lambda: job in httpx.get(f"{url}/api/tasks", auth=(name, password)).json(), 20, dev.log.read_text)
        dev.send(signal.SIGINT)
        assert dev.wait(20) == 0
    finally:
        service.close()


def test_dev_shows_no_login_of_your_own(installed: Installed) -> None:
    service = on_its_own(installed)
    try:
        dev = service.start("dev", installed.script, "dev", flower_basic_auth=":".join(LOGIN))
        until(lambda: healthy(service) and re.search("Flower  +http", dev.log.read_text()), 90, dev.log.read_text)
        assert "Flower's login" not in dev.log.read_text()
        assert LOGIN[1] not in dev.log.read_text()
    finally:
        service.close()


def test_workers_send_events_where_flower_was_chosen_and_nowhere_else(installed: Installed, tmp_path: Path) -> None:
    """Without the layer's module, as in a service without Flower."""
    package = installed.folder / "src" / installed.package
    shutil.copytree(package, tmp_path / installed.package, ignore=shutil.ignore_patterns("events.py", "__pycache__"))
    command = [installed.python, "-P", "-c", SENDS_EVENTS, f"{installed.package}.celery"]
    sends = [subprocess.check_output(command, text=True, env=each) for each in ({}, {"PYTHONPATH": str(tmp_path)})]
    assert sends == ["True\n", "False\n"]
