"""Workflows with one part that ends in some way (test_parts.py, test_arq_workflows.py)."""

import asyncio
import time
from contextlib import suppress
from typing import Any

from ..runtime import Outcome, chain, group, job  # ty: ignore[import-not-found]
from .faults import ends  # ty: ignore[import-not-found]
from .probes import exclusive, exclusive_or_not, mark, overrun, tell  # ty: ignore[import-not-found]
from .resources import Context  # ty: ignore[import-not-found]

WORKS = 60.0  # seconds of a part that is to be cancelled
PARTS: dict[str, tuple[Any, tuple[Any, ...]]] = {  # each with the jobs' arguments after the label
    "succeeds": (mark, ()),
    "fails": (ends, ("error",)),
    "cancelled waiting": (exclusive, (0,)),
    "cancelled running": (mark, (WORKS,)),
    "skipped": (exclusive_or_not, (0,)),
    "discarded": (ends, ("error",)),
    "poison": (ends, ("process_killed",)),
    "soft limit": (overrun, (False,)),
    "hard limit": (overrun, (True,)),
}


@job(queue="default", retry=None)
async def gathers(ctx: Context, outcomes: list[Outcome[object]], label: str) -> list[dict[str, object]]:
    """A fan-in: its result is what it was given."""
    await tell(ctx, label)
    return [outcome.model_dump() for outcome in outcomes]


@job(queue="default", retry=None)
async def handles(ctx: Context, failed: str) -> str:
    """An error callback: its result is the id of the job that did not succeed."""
    await tell(ctx, f"{failed}-error")
    return failed


@job(queue="default", retry=None)
async def deaf(ctx: Context, label: str, seconds: float) -> str:
    """Work on, whatever it is asked."""
    await tell(ctx, label)
    ends_at = time.monotonic() + seconds
    while (left := ends_at - time.monotonic()) > 0:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(left)
    return label


def part_of(how: str, label: str) -> Any:
    of, args = PARTS[how]
    return of.call(args[0], label, *args[1:]) if of is ends else of.call(label, *args)


@job(queue="default", retry=None)
async def builds(ctx: Context, shape: str, how: str, label: str) -> dict[str, object]:
    """Start a workflow; its result is the ids of the part, and of the jobs that cannot run without it."""
    part = part_of(how, label)
    if shape == "reported":
        fan_in = await group([part, mark.call(f"{label} fine")], gathers, f"{label} fan-in")
        return {"part": fan_in.removesuffix(".then") + ".0", "waiting": [fan_in]}
    last = await chain(part, mark.call(f"{label} one"), mark.call(f"{label} two"), on_error=handles)
    flow = last.removesuffix(".2")
    return {"part": f"{flow}.0", "waiting": [f"{flow}.1", last]}


@job(queue="default", retry=None)
async def builds_saga(ctx: Context, how: str, label: str) -> list[str]:
    """A chain of three steps, each with its undo, whose second is special; its result is their ids."""
    special = deaf.call(f"{label}-1", 4) if how == "deaf" else ends.call("error", f"{label}-1")
    calls = [mark.call(f"{label}-0"), special, mark.call(f"{label}-2")]
    last = await chain(*(call.undo(mark.call(f"{label}-undo-{number}")) for number, call in enumerate(calls)))
    return [f"{last.removesuffix('.2')}.{number}" for number in range(3)]
