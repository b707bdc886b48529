"""Send each job to the right queue: by the job, by rules on its content, never to a queue that nobody reads.

A misspelt queue name would otherwise make a new queue without a worker, and the job would wait there for ever.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from importlib import import_module
from typing import Any

from celery import Task

from ..contract import UnknownQueue
from ..queues import DEFAULT_QUEUE, QUEUES

NAMES = tuple(queue.name for queue in QUEUES)


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
    """The first rule of jobs/routes.py that fits decides, else the job's own queue, else the default. An explicit queue
    wins over all."""

    @cached_property
    def rules(self) -> Sequence[Rule]:
        """Read when first needed: jobs import the runtime, not the other way round."""
        return import_module("...jobs.routes", __name__).RULES

    def __call__(
        self, name: str, args: Any, kwargs: Any, options: Mapping[str, Any], task: Task | None = None, **_: Any
    ) -> dict[str, Any]:
        """Celery's router signature (setting `task_routes`)."""
        for rule in self.rules:
            if fnmatchcase(name, rule.job) and (rule.when is None or rule.when(self._payload(task, args, kwargs))):
                return self._route(rule.queue, rule.priority)
        return self._route(getattr(task, "job_queue", None) or DEFAULT_QUEUE, None)

    @staticmethod
    def _payload(task: Any, args: Any, kwargs: Any) -> Any:
        payload = getattr(task, "payload", None)
        return payload(args or (), kwargs or {}) if payload else kwargs

    @staticmethod
    def _route(queue: str, priority: int | None) -> dict[str, Any]:
        return {"queue": queue} if priority is None else {"queue": queue, "priority": priority}
