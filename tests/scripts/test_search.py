"""No order of events breaks a job's record: all short orders, thousands of long ones, and each planted fault is found.

`SEEDS=20000 uv run pytest tests/scripts -k hold` searches for half an hour; a seed that fails is tried alone by
`-k "random and arq" --seed 144`.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from . import arq, celery
from .arq import ArqWorld
from .celery import CeleryWorld
from .planted import PLANTED
from .search import Violation, exhaust, walk
from .server import Lua
from .world import JobWorld, Planned

SEEDS = int(os.environ.get("SEEDS", "600"))
LENGTH = 40  # moves of a random order
ENOUGH = 3_000  # orders in which each planted fault is found
PLANS = (
    (Planned("a"),),
    (Planned("a", key="k"), Planned("b", key="k", late=True)),
    (Planned("a", key="k"), Planned("b", key="k")),
    (Planned("a", key="k"), Planned("b", key="k", late=True), Planned("c", "alone"), Planned("d", "alone")),
    (Planned("c", "only"), Planned("d", "only"), Planned("a", key="k", late=True), Planned("b", key="k", late=True)),
)
WORLDS: Mapping[str, Callable[..., JobWorld]] = {"arq": ArqWorld, "celery": CeleryWorld}


@pytest.fixture(scope="module")
def lua() -> Lua:
    return Lua()


@pytest.mark.parametrize(("stack", "depth"), [("arq", 4), ("celery", 5)])
def test_every_short_order_holds(lua: Lua, stack: str, depth: int) -> None:
    """Two jobs with one key and two workers."""
    found = exhaust(WORLDS[stack](lua, PLANS[1]), depth + 1 if SEEDS > 10_000 else depth)
    print(f"{stack}: {found.states} states, {found.moves} moves")
    assert found.states > 1_000


@pytest.mark.parametrize("stack", WORLDS)
def test_random_orders_hold(lua: Lua, stack: str, pytestconfig: pytest.Config) -> None:
    only = pytestconfig.getoption("seed")
    seeds = range(SEEDS) if only is None else [only]
    moves = sum(walk(WORLDS[stack](lua, PLANS[seed % len(PLANS)]), seed, LENGTH) for seed in seeds)
    print(f"{stack}: {len(seeds)} orders, {moves} moves")


@pytest.mark.parametrize(("stack", "fault", "now", "then"), PLANTED, ids=[f"{row[0]}: {row[1]}" for row in PLANTED])
def test_the_search_finds_each_planted_fault(lua: Lua, stack: str, fault: str, now: str, then: str) -> None:
    source = {"arq": arq.SOURCE, "celery": celery.RUNTIME / "record.lua"}[stack].read_text(encoding="utf-8")
    assert source.count(now) == 1, "the script has changed: plant it anew"
    broken = source.replace(now, then)
    make: Any = {
        "arq": lambda plan: ArqWorld(lua, plan, script=arq.script(broken)),
        "celery": lambda plan: CeleryWorld(lua, plan, scripts=celery.scripts(broken)),
    }[stack]
    for seed in range(ENOUGH):
        try:
            walk(make(PLANS[seed % len(PLANS)]), seed, LENGTH)
        except Violation as violation:
            print(f"{stack}: {fault}: seed {seed}: {str(violation).splitlines()[0]}")
            return
    pytest.fail(f"{ENOUGH} orders do not show it")
