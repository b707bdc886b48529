"""Schedules in a database: an operator's changes outlive releases, two schedulers fire once, nothing fails silently.

On PostgreSQL; the shared tests of schedules run on the embedded SQLite. DATABASE_MINUTES=3 lets two schedulers race
for longer.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from .installed import Installed
from .postgresql import PostgreSQL, postgresql
from .processes import Process, free_ports, until
from .service import Service, running

PASSWORD = "a-password-of-the-tests"
ROWS = "/django_celery_beat/periodictask/"
RACE = float(os.environ.get("DATABASE_MINUTES", "0.5")) * 60
# Another release is another environment: what it declares, and whether it has the job `seasonal`.
RELEASES = """
import os
from datetime import timedelta

from ..runtime import Schedule, job
from .probes import mark, tell

if "SEASON" in os.environ:

    @job(retry=None)
    def seasonal() -> None:
        tell("seasonal")


if "EVERY" in os.environ:
    payload = {"label": os.environ.get("LABEL", "declared")}
    name = os.environ.get("SCHEDULE", "declared")
    SCHEDULES = [Schedule(name, mark, timedelta(seconds=int(os.environ["EVERY"])), payload)]
"""


# As another program, or a person in Django's shell, writes into the table.
ROW_OF_ANOTHER = """
import json, sys
from datetime import UTC, datetime, timedelta
from {package}.admin import setup
setup()
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask
name, kind = sys.argv[1:]
interval, _ = IntervalSchedule.objects.get_or_create(every=1, period="seconds")
later = datetime.now(UTC) + timedelta(days=1)
values = {{
    "timezone": lambda: {{"crontab": CrontabSchedule.objects.get_or_create(minute="*", timezone="Europe/Berlin")[0]}},
    "clocked": lambda: {{"clocked": ClockedSchedule.objects.create(clocked_time=later), "one_off": True}},
    "one_off": lambda: {{"interval": interval, "one_off": True}},
    "expires": lambda: {{"interval": interval, "expires": later}},
    "expire_seconds": lambda: {{"interval": interval, "expire_seconds": 5}},
    "start_time": lambda: {{"interval": interval, "start_time": later}},
    "priority": lambda: {{"interval": interval, "priority": 3}},
    "routing_key": lambda: {{"interval": interval, "routing_key": "elsewhere"}},
    "args": lambda: {{"interval": interval, "args": '["by position"]'}},
}}[kind]()
PeriodicTask.objects.create(name=name, task="mark", kwargs=json.dumps({{"label": name}}), **values)
"""


class Admin:
    """The admin page as a person meets it, without a browser (tests/console has one)."""

    def __init__(self, service: Service, **settings: Any) -> None:
        [port] = free_ports(1)
        self.process = service.start(
            "admin", service.installed.script, "admin", "--port", str(port), admin_password=PASSWORD, **settings
        )
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", follow_redirects=True, timeout=20)
        until(self._answers, 40, self.process.log.read_text)

    def _answers(self) -> bool:
        assert self.process.returncode is None, self.process.log.read_text()
        try:
            return self.http.get("/login/").is_success
        except httpx.TransportError:
            return False

    def send(self, path: str, **fields: Any) -> httpx.Response:
        """A form of this page, with its token."""
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', self.http.get(path).text)
        assert token, self.http.get(path).text
        return self.http.post(path, data={"csrfmiddlewaretoken": token[1], **fields})

    def log_in(self, password: str = PASSWORD) -> httpx.Response:
        return self.send("/login/", username="admin", password=password)

    def put(self, name: str, **changes: str) -> httpx.Response:
        """Make a schedule, or save a change; the answer is the list, or the form with what is wrong."""
        row = self.row(name)
        fields = {
            "task": "mark",
            "when": "every 2 seconds",
            "kwargs": '{"label": "by hand"}',
            "queue": "",
            "enabled": "on",
        }
        wanted = {**fields, "name": name, **changes}
        return self.send(f"{ROWS}{row}/change/" if row else f"{ROWS}add/", **{k: v for k, v in wanted.items() if v})

    def act(self, action: str, name: str) -> httpx.Response:
        return self.send(ROWS, action=action, _selected_action=self.row(name), index="0")

    def row(self, name: str) -> str:
        """Its number; empty if there is none."""
        page = self.http.get(ROWS, params={"q": name}).text
        found = re.search(rf'href="{ROWS}(\d+)/change/[^"]*">{re.escape(name)}<', page)
        return found[1] if found else ""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with postgresql() as started:
        yield started


@pytest.fixture(scope="module")
def service(installed: Installed, server: PostgreSQL) -> Iterator[Service]:
    (installed.folder / "src" / installed.package / "jobs" / "releases.py").write_text(RELEASES)
    try:
        with running(installed, schedules_url=server.url, season=1, every=3600) as service:
            yield service
    finally:
        (installed.folder / "src" / installed.package / "jobs" / "releases.py").unlink()


@pytest.fixture(scope="module")
def schedulers(service: Service) -> list[Process]:
    started = [service.start_scheduler() for _ in range(2)]
    service.told("tick", 2, within=60)
    return started


@pytest.fixture(scope="module")
def admin(service: Service, schedulers: list[Process]) -> Iterator[Admin]:
    page = Admin(service)
    page.log_in()
    with closing(page.http):
        yield page


def schedule(service: Service, name: str) -> dict[str, Any]:
    return next((each for each in service.get("/schedules") if each["name"] == name), {})


def errors(page: httpx.Response) -> str:
    return " ".join(re.findall(r'<ul class="errorlist"[^>]*>(.*?)</ul>', page.text, re.DOTALL))


def test_two_schedulers_fire_a_schedule_of_ten_seconds_once_each_time(admin: Admin, service: Service) -> None:
    admin.put("race", when="every 10 seconds", kwargs='{"label": "race"}')
    until(lambda: schedule(service, "race"), 10)
    began = time.monotonic()
    until(lambda: time.monotonic() - began > RACE, RACE + 5)
    runs = len(service.effects(label="race"))
    assert abs(runs - RACE / 10) <= 1, runs
    told = schedule(service, "race")
    assert abs(told["runs"] - runs) <= 1, told
    ticks = schedule(service, "tick")["runs"]
    assert abs(ticks - len(service.effects(label="tick"))) <= 1, "each firing is counted once"
    admin.act("pause", "race")


def test_a_stranger_gets_the_log_in_form_and_nothing_else(admin: Admin) -> None:
    with httpx.Client(base_url=admin.http.base_url, follow_redirects=True) as stranger:
        for path in ("/", ROWS, f"{ROWS}add/", f"{ROWS}1/change/", "/auth/user/", "/no-such-page"):
            page = stranger.get(path)
            assert page.url.path == "/login/", path
            assert 'type="password"' in page.text
            assert "tick" not in page.text
        assert stranger.post(f"{ROWS}add/", data={"name": "mine"}).status_code == 403
        assert stranger.get("/", headers={"Host": "rebound.example"}).status_code == 400
        assert stranger.get("/static/admin/css/base.css").headers["content-type"].startswith("text/css")


def test_a_wrong_password_does_not_log_in(admin: Admin) -> None:
    mine = admin.http
    with httpx.Client(base_url=mine.base_url, follow_redirects=True) as other:
        admin.http = other
        try:
            assert "correct username and password" in admin.log_in("admin").text
            assert other.get(ROWS).url.path == "/login/"
        finally:
            admin.http = mine


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("when", "61 * * * *", "61 * * * *"),
        ("when", "* * * *", "for example 0 6 * * mon"),
        ("when", "0 0 31 2 *", "never occurs"),
        ("when", "every 0 seconds", "is no time"),
        ("when", "every 999999999 days", "more than a year"),
        ("when", "every now and then", "every 30 seconds"),
        ("task", "send_fax", "send_fax is not one of the available choices"),
        ("queue", "express", "express is not one of the available choices"),
        ("kwargs", "{label}", "valid JSON"),
        ("kwargs", "[1]", "Give an object"),
        ("kwargs", '{"label": "x", "colour": "red"}', "colour"),
        ("kwargs", "{}", "label: Field required"),
    ],
)
def test_what_could_not_fire_is_refused_at_the_form(admin: Admin, field: str, value: str, told: str) -> None:
    page = admin.put("refused", **{field: value})
    assert told in errors(page).replace("&#x27;", "'"), errors(page)
    assert not admin.row("refused")


def test_one_made_by_an_operator_fires_until_it_is_paused(admin: Admin, service: Service) -> None:
    admin.put("operators", kwargs='{"label": "operators"}', queue="bulk")
    service.told("operators", 2)
    told = schedule(service, "operators")
    assert (told["job"], told["queue"], told["when"]) == ("mark", "bulk", "every 0:00:02")
    assert told["last_run_at"] < told["next_run_at"]
    admin.act("pause", "operators")
    until(lambda: schedule(service, "operators")["paused"], 5)
    seen, since = len(service.effects(label="operators")), time.monotonic()
    until(lambda: time.monotonic() - since > 6, 10)
    assert len(service.effects(label="operators")) <= seen + 1, "what was queued before may still be told"
    assert schedule(service, "operators")["last_run_at"], "a pause forgets nothing"
    admin.act("resume", "operators")
    service.told("operators", seen + 2)
    admin.act("pause", "operators")
    assert service.metric("jobs_schedule_last_enqueue_timestamp_seconds", schedule="operators") > 0


def test_one_is_run_now_by_page_command_and_http(admin: Admin, service: Service) -> None:
    admin.put("at will", when="0 0 1 1 *", kwargs='{"label": "at will"}')
    assert "At will: job" in admin.act("run_now", "at will").text
    job = service.cli("schedules", "run", "at will").strip()
    service.wait(job)
    answer = service.http.post("/api/v1/schedules/at%20will/run")
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/api/v1/jobs/{answer.json()['id']}"
    service.told("at will", 3)
    assert schedule(service, "at will")["runs"] == 0, "its times are its own"


def release(service: Service, schedulers: list[Process], **environment: Any) -> None:
    """Exchange the schedulers for those of another release, which has looked once."""
    for each in schedulers:
        each.kill_group()
    wanted = {key.upper(): str(value) for key, value in environment.items()}
    before = {key: service.environment.pop(key, "") for key in ("SEASON", "EVERY", "LABEL", "SCHEDULE")}
    service.environment |= wanted
    try:
        schedulers[:] = [service.start_scheduler() for _ in range(2)]
    finally:
        for key, value in before.items():
            service.environment.pop(key, None)
            service.environment |= {key: value} if value else {}
    service.told("tick", len(service.effects(label="tick")) + 2, within=60)


def test_a_release_changes_what_it_declares_but_not_what_an_operator_changed(
    admin: Admin, service: Service, schedulers: list[Process]
) -> None:
    assert schedule(service, "declared")["when"] == "every 1:00:00"
    release(service, schedulers, season=1, every=1800)
    assert schedule(service, "declared")["when"] == "every 0:30:00"
    admin.put("declared", when="0 6 * * mon", kwargs='{"label": "declared"}')
    service.cli("schedules", "pause", "tick")
    service.cli("schedules", "resume", "tick")
    release(service, schedulers, season=1, every=900, label="new")
    told = schedule(service, "declared")
    assert told["when"].startswith("crontab: 0 6 * * mon"), "the operator's"
    job = service.wait(service.cli("schedules", "run", "declared").strip())
    assert job["name"] == "mark"
    service.told("new")
    assert admin.act("delete_selected", "declared").status_code == 200
    assert schedule(service, "declared"), "one that jobs/ declares is paused, not deleted"
    release(service, schedulers, season=1)
    assert schedule(service, "declared"), "it was changed: now it is the operator's"
    release(service, schedulers, season=1, every=3600, schedule="another")
    assert schedule(service, "another")
    assert [each.returncode for each in schedulers] == [None, None], "both wanted to make it"
    release(service, schedulers, season=1)
    assert not schedule(service, "another"), "nobody had changed it"


def test_a_schedule_whose_job_is_gone_is_disabled_with_an_alarm_and_the_others_go_on(
    admin: Admin, service: Service, schedulers: list[Process]
) -> None:
    admin.put("orphan", task="seasonal", kwargs="{}")
    service.told("seasonal", 1)
    until(lambda: schedule(service, "orphan")["last_run_at"], 10)  # noted after the job is sent; `release` kills
    release(service, schedulers, every=3600)
    told = until(lambda: found if (found := schedule(service, "orphan"))["problem"] else None, 20)
    assert "there is no job 'seasonal'" in told["problem"]
    assert not told["paused"]
    assert told["next_run_at"] <= told["last_run_at"], "overdue at once: JobsScheduleSilent"
    assert any("orphan cannot fire" in reason for reason in service.health()["reasons"])
    page = admin.http.get(ROWS, params={"q": "orphan"}).text
    assert "there is no job" in page
    assert 'alt="False"' in page, "disabled"
    service.told("tick", len(service.effects(label="tick")) + 2)
    seen = len(service.effects(label="seasonal"))

    release(service, schedulers, season=1, every=3600)
    service.told("seasonal", seen + 1)
    assert not schedule(service, "orphan")["problem"], "the job is back"
    admin.act("pause", "orphan")


@pytest.mark.parametrize(
    "kind",
    ["timezone", "clocked", "one_off", "expires", "expire_seconds", "start_time", "priority", "routing_key", "args"],
)
def test_a_row_of_another_program_is_refused_by_what_it_asks_for(
    admin: Admin, service: Service, schedulers: list[Process], kind: str
) -> None:
    name = f"foreign {kind}"
    code = ROW_OF_ANOTHER.format(package=service.installed.package)
    wrote = service.start("shell", service.installed.python, "-c", code, name, kind)
    assert wrote.wait(30) == 0, wrote.log.read_text()
    assert kind in schedule(service, name)["problem"], "it is not fired in another way than its row says"
    assert any(name in reason for reason in service.health()["reasons"])
    ticks = len(service.effects(label="tick"))
    service.told("tick", ticks + 2)
    assert not service.effects(label=name)
    if kind == "one_off":
        admin.put(name, when="every 1 seconds", kwargs=f'{{"label": "{name}"}}')
        service.told(name, 2)
    admin.act("pause", name)


def test_while_the_database_is_away_jobs_flow_and_schedules_say_so(
    admin: Admin, service: Service, server: PostgreSQL, schedulers: list[Process]
) -> None:
    server.stop()
    try:
        service.wait(service.submit("noop"))
        answer = service.http.get("/api/v1/schedules")
        assert answer.status_code == 503
        assert "database of the schedules" in answer.text
        assert service.http.get("/health/live").is_success
        assert "database of the schedules" in service.cli("schedules", code=3)
    finally:
        server.start()
    service.told("tick", len(service.effects(label="tick")) + 2)
    assert [each.returncode for each in schedulers] == [None, None]


def test_it_listens_beyond_this_machine_only_when_it_is_safe(service: Service, tmp_path: Path) -> None:
    database: dict[str, Any] = {"schedules_url": f"sqlite:///{tmp_path}/schedules.db"}
    safe: dict[str, Any] = {"admin_secret_key": "x" * 50, "admin_hosts": "admin.example.com"}

    def refused(**settings: Any) -> str:
        return service.cli("admin", "--host", "0.0.0.0", "--port", "0", code=2, **database, **settings)

    assert "ADMIN_SECRET_KEY is not set" in refused()
    assert "ADMIN_HOSTS is not set" in refused(admin_secret_key="x" * 50)
    assert "admin createsuperuser" in refused(**safe)
    assert "too short" in refused(**safe, admin_password="secret")
    assert "too short" in service.cli("admin", "createsuperuser", "ann", stdin="secret\n", code=2, **database)
    told = service.cli("admin", "createsuperuser", "ann", stdin=f"{PASSWORD}\n", **database)
    assert told == "ann may log in\n"
    started = service.start(
        "admin", service.installed.script, "admin", "--host", "0.0.0.0", "--port", "0", **database, **safe
    )
    until(lambda: "running on http://0.0.0.0" in started.log.read_text(), 40, started.log.read_text)
    started.stop(10)


@pytest.mark.parametrize("url", ["mysql://host/name", "sqlite://", "postgresql://host"])
def test_an_address_that_is_no_database_is_refused_by_name(service: Service, url: str) -> None:
    assert "SCHEDULES_URL" in service.cli("scheduler", code=2, schedules_url=url)
