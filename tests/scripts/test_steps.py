"""Single steps in states that the search does not come to: a lost record, a step of a workflow."""

import json

import pytest

from .arq import ArqWorld
from .celery import CeleryWorld
from .server import Lua
from .world import JobWorld, Planned, Worker

SHOWN = {"name", "state", "queue", "priority"}  # without which a status cannot be read


@pytest.fixture(scope="module")
def lua() -> Lua:
    return Lua()


def running(world: JobWorld) -> Worker:
    """A worker that runs job a."""
    sent = ("send a", "publish a", "confirm a") if isinstance(world, CeleryWorld) else ("send a",)
    for move in (*sent, "w1 takes"):
        world.move(move)
    return world.workers[0]


@pytest.mark.parametrize("kind", [ArqWorld, CeleryWorld])
@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_an_end_whose_record_redis_has_lost_can_be_read(lua: Lua, kind: type[JobWorld], state: str) -> None:
    world = kind(lua, (Planned("a"),))
    worker = running(world)
    world.server.values.clear()
    world.server.expires.clear()
    world.end(worker, state, state)
    assert world.record("a").keys() >= SHOWN
    assert world.state("a") == state
    assert "job:a" in world.server.expires


@pytest.mark.parametrize("state", ["retrying", "scheduled", "queued"])
def test_a_run_whose_message_redis_has_lost_does_not_come_again(lua: Lua, state: str) -> None:
    world = ArqWorld(lua, (Planned("a"),))
    worker = running(world)
    world.server.values.clear()
    world.server.expires.clear()
    world.end(worker, state, "retried", delay=1.0)
    assert world.server.values == {}


def test_a_step_of_a_workflow_that_cannot_be_sent_ends(lua: Lua) -> None:
    world = CeleryWorld(lua, ())
    record = json.dumps({"name": "ship", "state": "queued", "queue": "default", "priority": 5, "root": "first"})
    world.step("reserve", "first", "first", "ship", "", "", "0", record, json.dumps({"second": ["ship", True]}))
    assert world.state("second") == "scheduled"
    for _ in range(2):  # its sender asks again when the answer is lost
        world.step("reserve", "second", "second", "ship", "", "", "0", record, "{}")
    assert world.step("withdraw", "second", "second", "ship", "", world.now) == 1
    assert world.state("second") == "cancelled"
