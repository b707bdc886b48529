"""Send each job to the right queue: by the job, by rules on its content, never to a queue that nobody reads.

A misspelt queue name would otherwise make a new queue without a worker, and the job would wait there for ever.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib import import_module
from pkgutil import walk_packages
from typing import Any

from .. import jobs
from ..contract import UnknownQueue
from ..queues import QUEUES

NAMES = tuple(queue.name for queue in QUEUES)


def job_modules() -> list[str]:
    """The names of all modules in jobs/."""
    return [module.name for module in walk_packages(jobs.__path__, f"{jobs.__name__}.")]


def declared(name: str) -> list[Any]:
    """What the modules of jobs/ list under this name."""
    return [entry for module in job_modules() for entry in getattr(import_module(module), name, ())]


def known_queue(name: str) -> str:
    """The name itself; raises UnknownQueue that lists the right ones."""
    if name not in NAMES:
        raise UnknownQueue(f"there is no queue {name!r}; queues.py has {', '.join(NAMES)}")
    return name


@dataclass(frozen=True, slots=True)
class Rule:
    """Jobs whose name matches (`*` allowed) and whose payload meets `when` go to this queue, with this priority."""

    job: str
    queue: str
    when: Callable[[Any], bool] | None = None
    priority: int | None = None

    def __post_init__(self) -> None:
        known_queue(self.queue)


@cache
def _rules() -> list[Rule]:
    """Read when first needed: jobs import the runtime, not the other way round."""
    return declared("RULES")


def route(name: str, payload: Callable[[], Any]) -> Rule | None:
    """The first fitting one of the `RULES` in jobs/; the payload is asked for only by a rule with `when`."""
    for rule in _rules():
        if fnmatchcase(name, rule.job) and (rule.when is None or rule.when(payload())):
            return rule
    return None
