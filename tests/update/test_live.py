"""What an old release left in its broker, the new one finishes: live deployments of both, one after the other.

Only with `--live`: a minute for each case.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ..contract.installed import Installed
from ..contract.processes import listening, until
from ..contract.service import Service as Running
from ..contract.stacks import STACKS
from .updating import NEXT, Service, commit, copied, git, released_stacks

ANSWERS = {"queues": ["critical", "default", "bulk"]}
LATER = "v1001.0.0"
COUNTERS = "jobs_(enqueued|started|finished|queue_wait|duration)_"
START_OLD_BROKER = """
import os, sys
from pathlib import Path
from my_service.dev.embedded import valkey_command
command = valkey_command(Path(sys.argv[1]), int(sys.argv[2]))
os.execv(command[0], command)
"""
TO_FORMAT_2 = """
  local cursor = '0'
  repeat
    local page = redis.call('SCAN', cursor, 'COUNT', 1000)
    cursor = page[1]
    for _, key in ipairs(page[2]) do
      local letter, claim = key:match('^dead:(.+)'), key:match('^key:(.+)')
      if letter then redis.call('RENAME', key, 'letter:' .. letter) end
      if claim then redis.call('RENAME', key, 'claim:' .. claim) end
      if key == 'schedules' then redis.call('RENAME', key, 'timetable') end
      if key:match('^job:') and redis.call('TYPE', key).ok == 'hash' then
        local began = redis.call('HGET', key, 'run_at')
        if began then redis.call('HSET', key, 'began_at', began) end
        redis.call('HDEL', key, 'run_at')
      end
    end
  until cursor == '0'
"""


def install(service: Service) -> None:
    uv = os.environ.get("UV") or shutil.which("uv")
    assert uv, "the tests install services with uv: have it on PATH or in UV"
    environment = {**os.environ, "UV_PYTHON": os.environ.get("UV_PYTHON", sys.executable)}
    environment.pop("VIRTUAL_ENV", None)
    done = subprocess.run([uv, "sync", "--quiet"], cwd=service.folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    service.commit("Locked")


@dataclass
class Deployment:
    """A service on disk and its processes; an update changes the first between two lives of the second."""

    service: Service
    running: Running

    def start(self) -> None:
        self.running.start_api()
        self.running.start_worker()
        self.running.start_scheduler()
        self.running.wait_for_workers(1, within=40)

    def stop(self) -> None:
        """All but the broker and the gateway, as a redeployment does."""
        for process in self.running.processes:
            if process.name in ("api", "worker", "scheduler") and process.returncode is None:
                process.stop()

    def update(self, to: str) -> None:
        self.service.update(to)
        assert self.service.conflicts() == []
        install(self.service)


@contextmanager
def deployed(template: Path, folder: Path, version: str, stack: str) -> Generator[Deployment]:
    service = copied(template, folder / "service", version, {"stack": stack, **ANSWERS})
    shutil.copy(STACKS[stack].probes["probes.py"], service.package / "jobs/probes.py")
    service.commit()
    install(service)
    running = Running(Installed(service.folder, STACKS[stack], "my_service", "my-service"), {"DRAIN": 2})
    try:
        if (service.package / "dev/broker.py").exists():
            running.start_broker()
        else:  # 0.2.0 and before
            place = running.folder / "broker", running.broker_port
            running.start("broker", running.installed.python, "-c", START_OLD_BROKER, place[0], str(place[1]))
            until(lambda: listening(place[1]), 20, "the broker listens")
        running.start_gateway()
        deployment = Deployment(service, running)
        deployment.start()
        yield deployment
    finally:
        running.close()


@dataclass
class Left:
    """Ids of what stood in the broker when the old release stopped."""

    done: str
    keyed: str
    dead: str
    running: str
    delayed: str
    retrying: str
    waiting: list[str]
    schedules: dict[str, Any]
    counters: dict[str, float]


@pytest.mark.parametrize(("release", "stack"), released_stacks())
def test_the_next_release_finishes_what_an_old_one_left(
    template: Path, tmp_path: Path, release: str, stack: str
) -> None:
    with deployed(template, tmp_path, f"v{release}", stack) as deployment:
        left = leave(deployment)
        deployment.update(NEXT)
        deployment.start()
        finish(deployment.running, left)


@pytest.mark.parametrize("stack", ["celery", "arq"])
def test_a_release_with_another_format_of_state_takes_the_old_over(template: Path, tmp_path: Path, stack: str) -> None:
    folder = with_format_2(template, tmp_path)
    with deployed(folder, tmp_path, NEXT, stack) as deployment:
        service = deployment.running
        left = leave(deployment, stop=False)
        deployment.update(LATER)
        refused = service.start_worker()
        until(lambda: refused.returncode is not None, 20, "a worker of format 2 beside one of format 1 ends")
        assert refused.returncode == 1
        assert "workers of the old release live: " in refused.log.read_text()

        deployment.stop()  # a worker that hands back what runs does not sign off: it is silent after a while
        until(lambda: takes_over(service), 60, "the old worker is silent, and the new release takes over")
        deployment.start()
        finish(service, left)

        git(deployment.service.folder, "checkout", "--quiet", "--force", "HEAD~1")  # a rollback
        install(deployment.service)
        for command in ("api", "worker", "scheduler"):
            told = service.cli(command, code=1, within=20)
            assert "Redis holds state of format 2, this release knows 1: a newer release was here." in told


def takes_over(service: Running) -> bool:
    command = [service.installed.python, "-c", "from my_service.ops.state import check; check()"]
    done = subprocess.run(command, cwd=service.folder, env=service.environment, capture_output=True, check=False)
    return done.returncode == 0


def with_format_2(template: Path, folder: Path) -> Path:
    """The repository with one more release, which keeps dead letters, keys, schedules and runs in other places."""
    later = folder / "later"
    git(folder, "clone", "--quiet", str(template), str(later))
    for layer in ("if_celery", "if_arq"):
        for path in (later / f"template/{{{{{layer}}}}}").rglob("*"):
            if path.suffix in (".py", ".lua") and {"ops", "runtime"} & set(path.parts):
                text = re.sub(r"(['\"])dead:", r"\1letter:", path.read_text())
                text = re.sub(r"(['\"])key:", r"\1claim:", text).replace("'run_at'", "'began_at'")
                path.write_text(text.replace('STATE = "schedules"', 'STATE = "timetable"'))
    state = later / "template/{{if_redis_state}}/ops/state.py"
    text = state.read_text().replace("\nFORMAT = 1\n", "\nFORMAT = 2\n")
    text = text.replace("MIGRATIONS: dict[int, str] = {}", f'MIGRATIONS: dict[int, str] = {{2: """{TO_FORMAT_2}"""}}')
    assert text.count("2") > state.read_text().count("2")
    state.write_text(text)
    commit(later, "Format 2", LATER)
    return later


def leave(deployment: Deployment, *, stop: bool = True) -> Left:
    """Work in each state there is, and then the end of every process but the broker."""
    service = deployment.running
    done = service.submit("mark", {"label": "done"})
    keyed = service.submit("effect", {"key": "once"}, key="the-key")
    dead = service.submit("permanent", {"label": "dead"})
    service.wait(done)
    service.wait(keyed)
    service.wait(dead, "failed")
    delayed = service.submit("mark", {"label": "delayed"}, delay=60)
    retrying = service.submit("told_to_wait", {"label": "retrying", "seconds": 45})
    service.told("retrying")
    running = service.submit("mark", {"label": "running", "seconds": 20})
    service.told("running")
    waiting = [service.submit("mark", {"label": "waiting"}, queue="bulk", priority=number) for number in (0, 9)]
    schedules = {one["name"]: one for one in service.get("/schedules")}
    counters = {sample: value for sample, value in service.metrics().items() if value and re.match(COUNTERS, sample)}
    assert any("jobs_queue_wait_seconds_sum" in sample for sample in counters)
    if stop:
        deployment.stop()
    return Left(done, keyed, dead, running, delayed, retrying, waiting, schedules, counters)


def finish(service: Running, left: Left) -> None:
    """Nothing is lost, nothing is done twice, and what had ended is known as before."""
    now = service.metrics()
    assert [sample for sample, before in left.counters.items() if now.get(sample, 0) < before] == []
    assert service.result(left.done) == "done"
    again = service.post("effect", {"key": "once"}, key="the-key")
    assert (again.status_code, again.json()["id"]) == (200, left.keyed)
    for job in (left.running, left.delayed, left.retrying, *left.waiting):
        service.wait(job, within=90)
    assert [charge["order_id"] for charge in service.charges()] == ["once"]
    assert len(service.effects(label="delayed")) == 1

    [letter] = [letter for letter in service.dead_letters() if letter["id"] == left.dead]
    assert letter["reason"] == "permanent"
    replayed = service.http.post(f"/api/v1/dead-letters/{left.dead}/replay")
    assert replayed.status_code in (200, 202), replayed.text
    service.wait(replayed.json()["id"], "failed")
    assert len(service.effects(label="dead")) == 2

    now = {one["name"]: one for one in service.get("/schedules")}
    assert now.keys() == left.schedules.keys()
    for name, before in left.schedules.items():
        assert now[name]["runs"] >= before["runs"], name
