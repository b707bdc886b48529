"""Schedules fire once per tick however many schedulers run, go on when one dies, and say when they do not."""

import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from .installed import Installed
from .processes import Process, until
from .service import Service, running

EVERY = 2.0


@pytest.fixture(scope="module")
def pair(installed: Installed) -> Iterator[tuple[Service, list[Process]]]:
    """One worker and two schedulers."""
    with running(installed) as service:
        schedulers = [service.start_scheduler() for _ in range(2)]
        service.told("tick", 4, within=40)
        yield service, schedulers


def test_two_schedulers_fire_once_per_tick(pair: tuple[Service, list[Process]]) -> None:
    service, _ = pair
    service.told("tick", 6)
    times = [told["at"] for told in service.effects(label="tick")]
    gaps = [after - before for before, after in pairwise(times)]
    assert all(EVERY * 0.5 < gap < EVERY * 1.5 for gap in gaps), gaps


def test_schedules_are_listed_with_their_next_run(pair: tuple[Service, list[Process]]) -> None:
    service, _ = pair
    schedules = {schedule["job"]: schedule for schedule in service.get("/schedules")}
    tick = schedules["tick"]
    assert tick["queue"] == "default"
    assert tick["runs"] >= 4
    assert not tick["silent"]
    assert time.time() - EVERY * 2 < tick["last_run_at"] <= time.time()
    assert tick["last_run_at"] < tick["next_run_at"] <= time.time() + EVERY * 1.5
    digest = schedules["send_digest"]
    assert digest["next_run_at"] > time.time()
    assert digest["when"]
    assert {"send_digest", "sync_inventory"} <= set(schedules)
    assert [schedule["name"] for schedule in service.cli_json("schedules")] == [
        schedule["name"] for schedule in service.get("/schedules")
    ]


def test_when_either_scheduler_dies_the_other_goes_on(pair: tuple[Service, list[Process]]) -> None:
    service, schedulers = pair
    for index in range(2):
        schedulers[index].kill_group()
        seen = len(service.effects(label="tick"))
        service.told("tick", seen + 2, within=60)
        schedulers[index] = service.start_scheduler()
    service.told("tick", len(service.effects(label="tick")) + 2)
    gaps = [after["at"] - before["at"] for before, after in pairwise(service.effects(label="tick"))]
    assert all(gap > EVERY * 0.5 for gap in gaps), gaps


def test_a_paused_schedule_fires_no_more_until_it_is_resumed(pair: tuple[Service, list[Process]]) -> None:
    """Both schedulers heed it, also one that starts later; what was missed is not made up for, and nothing alarms."""
    service, schedulers = pair

    def tick() -> dict[str, Any]:
        [found] = [schedule for schedule in service.get("/schedules") if schedule["name"] == "tick"]
        return found

    assert service.cli("schedules", "pause", "tick") == "tick is paused\n"
    time.sleep(EVERY)  # what was submitted before is still told
    before = len(service.effects(label="tick"))
    schedulers[0].kill_group()
    schedulers[0] = service.start_scheduler()
    time.sleep(3 * EVERY)
    assert len(service.effects(label="tick")) == before
    assert tick()["paused"]
    assert not tick()["silent"]
    assert tick()["next_run_at"] is None

    resumed = time.time()
    assert service.http.post("/api/v1/schedules/tick/resume").status_code == 204
    assert resumed + EVERY * 0.9 < tick()["next_run_at"] < resumed + EVERY * 1.5
    told = service.told("tick", before + 2)[before:]
    assert told[0]["at"] > resumed + EVERY * 0.9
    assert told[1]["at"] - told[0]["at"] > EVERY * 0.5
    assert not tick()["paused"]


def test_only_a_schedule_that_exists_can_be_paused(service: Service) -> None:
    for verb in ("pause", "resume"):
        answer = service.http.post(f"/api/v1/schedules/no-such/{verb}")
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:problem:unknown-schedule")
        assert "no-such" in service.cli("schedules", verb, "no-such", code=2)
    [tick] = [schedule for schedule in service.cli_json("schedules") if schedule["name"] == "tick"]
    assert tick["paused"] is False


def test_one_that_no_scheduler_has_seen_is_not_late_after_a_pause(service: Service) -> None:
    """Nobody runs a scheduler here: its next time moves on with the clock, as before the pause, and never goes by."""
    for verb in ("pause", "resume"):
        assert service.http.post(f"/api/v1/schedules/tick/{verb}").status_code == 204

    def due() -> float:
        [tick] = [schedule for schedule in service.get("/schedules") if schedule["name"] == "tick"]
        return tick["next_run_at"]

    first = due()
    until(lambda: due() > first, 3 * EVERY)


def test_a_scheduler_ends_at_once_on_sigterm(pair: tuple[Service, list[Process]]) -> None:
    service, _ = pair
    extra = service.start_scheduler()
    until(lambda: extra.log.stat().st_size > 0, 10)
    extra.send(signal.SIGTERM)
    assert extra.wait(10) == 0
