"""Schedules fire at their times whatever the clock of a scheduler's machine says."""

from pathlib import Path

from ..contract.installed import Installed
from ..contract.processes import until
from ..contract.service import Service, running

AN_HOUR_AHEAD = "import time\nright = time.time\ntime.time = lambda: right() + 3600\n"


def clock_an_hour_ahead(folder: Path) -> str:
    """PYTHONPATH of a process with that clock."""
    (folder / "ahead").mkdir(exist_ok=True)
    (folder / "ahead" / "sitecustomize.py").write_text(AN_HOUR_AHEAD)
    return str(folder / "ahead")


def ticks(service: Service) -> int:
    return len(service.effects(label="tick"))


def test_after_a_scheduler_whose_clock_was_an_hour_ahead_schedules_fire_at_once(installed: Installed) -> None:
    with running(installed) as service:
        path = clock_an_hour_ahead(service.folder)
        wrong = service.start("scheduler", installed.script, "scheduler", pythonpath=path)
        service.told("tick", 2, within=60)
        wrong.kill_group()
        seen = ticks(service)
        service.start_scheduler()
        service.told("tick", seen + 2, within=20)


def test_after_redis_clock_was_set_back_by_an_hour_schedules_fire_at_once(installed: Installed) -> None:
    with running(installed) as service:
        scheduler = service.start_scheduler()
        service.told("tick", 2, within=60)
        scheduler.kill_group()
        remember_an_hour_ahead(service)
        seen = ticks(service)
        service.start_scheduler()
        service.told("tick", seen + 2, within=20)
        [tick] = [each for each in service.get("/schedules") if each["name"] == "tick"]
        until(lambda: not service.health()["reasons"], 10, service.health)
        assert tick["runs"] >= 7, "what it has counted stays"


def remember_an_hour_ahead(service: Service) -> None:
    code = (
        "import json, redis, sys, time; client = redis.Redis.from_url(sys.argv[1]); "
        "client.hset('schedules', 'tick', json.dumps({'last_run_at': time.time() + 3600, 'runs': 5}))"
    )
    process = service.start("clock", service.installed.python, "-c", code, service.environment["REDIS_URL"])
    assert process.wait(20) == 0
