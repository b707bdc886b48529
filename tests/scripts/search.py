"""Go through orders of events: all of them to a depth, then random ones that a number replays.

A world is a state that a move changes. After each move what must always hold is checked; from each new state the world
is brought to rest, by moves that a live service makes sooner or later, and what must hold at rest is checked.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, Self


class World(Protocol):
    """What can be searched."""

    def copy(self) -> Self: ...
    def key(self) -> object: ...
    def moves(self) -> list[str]: ...
    def move(self, name: str) -> None: ...
    def settle(self) -> None: ...


class Violation(AssertionError):
    """What must hold does not, and the moves that led there."""

    def __init__(self, why: str, moves: Iterable[str]) -> None:
        super().__init__("\n  ".join([why, *moves]))


@dataclass
class Found:
    """How much was searched."""

    states: int = 0
    moves: int = 0


def exhaust(start: World, depth: int) -> Found:
    """Every order of at most `depth` moves; raises Violation with a shortest one that breaks a rule."""
    found, seen, level = Found(), set[object](), [(start, ())]
    for _ in range(depth):
        following: list[tuple[World, tuple[str, ...]]] = []
        for world, path in level:
            for name in world.moves():
                after, moves = world.copy(), (*path, name)
                _checked(after, name, moves)
                found.moves += 1
                if (key := after.key()) in seen:
                    continue
                seen.add(key)
                _settled(after, moves)
                following.append((after, moves))
        level = following
    found.states = len(seen)
    return found


def walk(world: World, seed: int, length: int, *, settle: bool = True) -> int:
    """One random order from here; how many moves it had. Raises Violation, which names the seed."""
    chance, moves = random.Random(seed), [f"seed {seed}:"]
    for _ in range(length):
        names = world.moves()
        if not names:
            break
        moves.append(chance.choice(names))
        _checked(world, moves[-1], moves)
    if settle:
        _settled(world, moves)
    return len(moves) - 1


def _checked(world: World, name: str, moves: Iterable[str]) -> None:
    try:
        world.move(name)
    except AssertionError as error:
        raise Violation(str(error), moves) from None


def _settled(world: World, moves: Iterable[str]) -> None:
    world = world.copy()
    try:
        world.settle()
    except AssertionError as error:
        raise Violation(f"at rest: {error}", moves) from None
