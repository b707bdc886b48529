"""Plain Temporal in jobs/: workflows and activities that are no jobs, which a worker runs as the SDK does.

A worker that did not know them would park such a workflow as an unknown job, and its activities would be tried forever.
"""

import inspect
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from typing import Any

from ..contract import JobDeclarationError
from ..runtime.job import jobs
from ..runtime.routing import declared, job_modules

WORKFLOW, ACTIVITY = "__temporal_workflow_definition", "__temporal_activity_definition"  # where the SDK puts them


@cache
def workflows_of_jobs() -> list[type]:
    """Each class with `@workflow.defn` in jobs/; raises JobDeclarationError."""
    found = {job.workflow: None for job in jobs().values() if job.workflow}
    for module, value in _values():
        if inspect.isclass(value) and value.__module__ == module and WORKFLOW in vars(value):
            found[value] = None
            name = vars(value)[WORKFLOW].name
            if name is None:
                raise JobDeclarationError(f"workflow {value.__name__} ({module}) is dynamic, as the jobs' own: name it")
            if name in jobs() and jobs()[name].workflow is not value:
                raise JobDeclarationError(f"workflow {value.__name__} ({module}) has the name of the job {name}")
    return list(found)


@cache
def activities_of_jobs() -> list[Callable[..., Any]]:
    """Each function with `@activity.defn` in jobs/, and their `ACTIVITIES`; raises JobDeclarationError."""
    listed = declared("ACTIVITIES")
    methods = {getattr(each, "__func__", None) for each in listed}
    found = dict.fromkeys(listed)
    for module, value in _values():
        if inspect.isfunction(value) and hasattr(value, ACTIVITY):
            found[value] = None
        elif inspect.isclass(value) and value.__module__ == module:
            for name, method in vars(value).items():
                if hasattr(method, ACTIVITY) and method not in methods:
                    mend = f"list it with its object: ACTIVITIES = [{value.__name__}(...).{name}]"
                    raise JobDeclarationError(f"activity {value.__name__}.{name} ({module}) is a method: {mend}")
    for each in found:
        if (name := getattr(each, ACTIVITY).name) in jobs():
            raise JobDeclarationError(
                f"activity {each.__qualname__} ({each.__module__}) has the name of the job {name}"
            )
    return list(found)


def _values() -> Iterator[tuple[str, Any]]:
    for module in job_modules():
        for value in list(vars(import_module(module)).values()):
            yield module, value
