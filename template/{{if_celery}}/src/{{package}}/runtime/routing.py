"""Send each job to the right queue: by the job, by rules on its content, never to a queue that nobody reads.

A misspelt queue name would otherwise make a new queue without a worker, and the job would wait there for ever.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from importlib import import_module
from pkgutil import walk_packages
from typing import Any

from .. import jobs
from ..contract import UnknownQueue
from ..queues import DEFAULT_QUEUE, QUEUES

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


class Router:
    """An explicit queue, else the first fitting one of the `RULES` in jobs/, else the job's own, else the default."""

    @cached_property
    def rules(self) -> Sequence[Rule]:
        """Read when first needed: jobs import the runtime, not the other way round."""
        return declared("RULES")

    def __call__(
        self, name: str, args: Any, kwargs: Any, options: Mapping[str, Any], task: Any = None, **_: Any
    ) -> dict[str, Any]:
        """Celery's router signature (setting `task_routes`)."""
        for rule in self.rules:
            fits = fnmatchcase(name, rule.job)
            if fits and (rule.when is None or rule.when(task.payload(args, kwargs) if task else kwargs)):
                return {"queue": rule.queue, "priority": rule.priority}
        return {"queue": getattr(task, "job_queue", None) or DEFAULT_QUEUE}
