"""Workflows with one part that ends in some way (test_parts.py)."""

import os
import signal
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..celery import app  # ty: ignore[import-not-found]
from ..runtime import PermanentError, chain, chord, group, job  # ty: ignore[import-not-found]
from .endings import end
from .faults import ends  # ty: ignore[import-not-found]
from .probes import effects, exclusive_or_not, mark, overrun, tell  # ty: ignore[import-not-found]


@job(queue="default", retry=None, outcome=True)
def ends_reported(kind: str, label: str, seconds: float = 0) -> object:
    """The same; a fan-in receives how it ended."""
    tell(label)
    time.sleep(seconds)
    return end(kind)


@job(queue="default", retry=None, outcome=True, singleton="skip")
def exclusive_reported(label: str, seconds: float) -> None:
    """Never two at once; the second is not needed."""
    tell(label)
    time.sleep(seconds)


@job(queue="default", retry=None, outcome=True, soft_limit=2, hard_limit=3)
def overruns_reported(label: str, deaf: bool) -> None:
    """Work for ever; a deaf one does not react to its soft limit either."""
    overrun.run(label, deaf)


@job(queue="default", retry=None)
def gathers(values: list[object], label: str) -> list[object]:
    """A fan-in: its result is what it was given."""
    tell(label)
    return values


@job(queue="default", retry=None)
def handles(failed: str, label: str) -> str:
    """An error callback: its result is the id of the job that did not succeed."""
    tell(label, failed=failed)
    return failed


@job(queue="default", retry=None)
def revokes(job_id: str, terminate: bool = False) -> None:
    """As a Celery user does."""
    app.control.revoke(job_id, terminate=terminate)


WORKS = 60.0  # seconds of a part that is to be cancelled
PARTS: dict[
    str, tuple[Any, tuple[Any, ...], dict[str, Any]]
] = {  # each with the jobs' arguments after the label, and options
    "succeeds": (mark, (), {}),
    "fails": (ends, ("error",), {}),
    "cancelled waiting": (mark, (), {"countdown": 600}),
    "cancelled running": (mark, (WORKS,), {}),
    "revoked waiting": (mark, (), {"countdown": 600}),
    "revoked running": (mark, (WORKS,), {}),
    "skipped": (exclusive_or_not, (0,), {}),
    "expired": (mark, (), {"countdown": 2, "expires": 1}),
    "discarded": (ends, ("error",), {}),
    "poison": (ends, ("process_killed",), {}),
    "soft limit": (overrun, (False,), {}),
    "hard limit": (overrun, (True,), {}),
}


def step(of: Any, *args: object, **options: object) -> Any:
    """A signature that takes no other arguments, with an id that is known before it is sent."""
    return of.si(*args).set(task_id=str(uuid.uuid4()), **options)


def fan_in_of(label: str) -> Any:
    return gathers.s(label=label).set(task_id=str(uuid.uuid4()))


def part_of(how: str, label: str, *, reported: bool) -> Any:
    if how == "unknown job":
        return app.signature("no_such_job", immutable=True).set(task_id=str(uuid.uuid4()))
    of, args, options = PARTS[how]
    if reported and of is mark:
        of, args = ends_reported, ("value", *args)
    elif reported:
        of = {ends: ends_reported, exclusive_or_not: exclusive_reported, overrun: overruns_reported}[of]
    return (
        step(of, args[0], label, *args[1:], **options)
        if of in (ends, ends_reported)
        else step(of, label, *args, **options)
    )


@job(queue="default", retry=None)
def builds(shape: str, how: str, label: str) -> dict[str, object]:
    """Start a workflow; its result is the ids of the part, and of the jobs that cannot run without it."""
    part = part_of(how, label, reported=shape == "reported")
    fine, first, one, two = [step(mark, f"{label} {name}") for name in ("fine", "first", "one", "two")]
    fan_in, outer = fan_in_of(f"{label} fan-in"), fan_in_of(f"{label} outer")
    error = handles.s(label=f"{label} error")
    makes: dict[str, tuple[Callable[[], Any], list[Any]]] = {
        "link": (lambda: part.on_error(error), []),
        "group": (lambda: group(part.on_error(error), fine), []),
        "chain": (lambda: chain(part, one, two).on_error(error), [one, two]),
        "chord": (lambda: chord([part, fine], fan_in.on_error(error)), [fan_in]),
        "reported": (lambda: chord([part, fine], fan_in), [fan_in]),
        "chord after it": (
            lambda: chain(part, group(fine, one), fan_in, two).on_error(error),
            [fine, one, fan_in, two],
        ),
        "chord in chain": (lambda: chain(first, group(part, fine), fan_in, two), [fan_in, two]),
        "chord in chord": (lambda: chord([chord([part, fine], fan_in), one], outer.on_error(error)), [fan_in, outer]),
        "chain in chord": (lambda: chord([chain(part, one), fine], fan_in.on_error(error)), [one, fan_in]),
        "chord, then chain": (lambda: chord([part, fine], chain(fan_in, one, two)), [fan_in, one, two]),
        "chord, then group": (lambda: chord([part, fine], group(one, two)), [one, two]),
    }
    make, waiting = makes[shape]
    make().apply_async()
    return {"part": part.options["task_id"], "waiting": [job.options["task_id"] for job in waiting]}


@job(queue="default", retry=None)
def fails_once(label: str) -> str:
    """Fail for good in its first run; a replay succeeds."""
    tell(label)
    if len(effects(label)) == 1:
        raise PermanentError("not today")
    return label


@job(queue="default", retry=None)
def dies_when_ended(label: str) -> str:
    """Let the process die between the job's recorded end and its return to the fan-in."""
    tell(label)
    app.backend.on_chord_part_return = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    return label


@job(queue="default", retry=None, no_key_because="it only waits")
def deaf(label: str, seconds: float) -> str:
    """Work on, whatever it is asked."""
    tell(label)
    ends_at = time.monotonic() + seconds
    while (left := ends_at - time.monotonic()) > 0:
        with suppress(BaseException):
            time.sleep(left)
    return label


@app.task(bind=True)
def replaced(self: Any, label: str, shape: str) -> None:
    """Let others do it."""
    by = {
        "job": lambda: mark.si(f"{label}-instead"),
        "chain": lambda: chain(mark.si(f"{label}-first"), mark.si(f"{label}-instead")),
        "group": lambda: group(mark.si(f"{label}-first"), mark.si(f"{label}-instead")),
    }
    raise self.replace(by[shape]())


@job(queue="default", retry=None)
def builds_special(shape: str, label: str) -> dict[str, object]:
    """As `builds`."""
    fine, one, two = [step(mark, f"{label}-{name}") for name in ("fine", "one", "two")]
    fan_in, error = fan_in_of(f"{label}-fan-in"), handles.s(label=f"{label}-error")
    kind, _, by = shape.partition(", ")
    of: Any = {"fails once": fails_once, "dies": dies_when_ended, "deaf": deaf, "replaced": replaced}[kind]
    part = step(of, label, *{"deaf": [4], "replaced": [by]}.get(kind, []))
    makes: dict[str, tuple[Callable[[], Any], list[Any]]] = {
        "fails once": (lambda: chain(part, one, group(fine, two), fan_in), [one, fine, two, fan_in]),
        "dies": (lambda: chord([part, fine], fan_in), [fan_in]),
        "deaf": (lambda: chain(part, one, two).on_error(error), [one, two]),
        "replaced": (lambda: chord([chain(part, one), fine], fan_in), [one, fan_in]),
    }
    make, waiting = makes[kind]
    make().apply_async()
    return {"part": part.options["task_id"], "waiting": [job.options["task_id"] for job in waiting]}
