"""`@job`, `workflow_job` and `Schedule`: functions and workflows whose queue, retries and idempotency are said, and
checked, where they are written, and when they run.

A job that retries without an idempotency key charges twice some day; that is refused at import, not found in
production.
"""

import inspect
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypeVar, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, create_model
from temporalio import activity, workflow

from ..contract import JobDeclarationError, Submission
from ..settings import settings
from . import submission
from .retry import NO_RETRY, RetryPolicy
from .routing import job_modules, known_queue
from .submission import Call

DEFAULT_RETRY = RetryPolicy()
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Job(Generic[P, R]):
    """A declared job: called like the function that it is, submitted with the same arguments, or a workflow's step."""

    function: Callable[P, Any]
    name: str
    queue: str | None
    priority: int
    retry: RetryPolicy
    key_of: Callable[..., str] | None
    soft_limit: float
    hard_limit: float
    singleton: Literal["wait", "skip"] | None
    per_second: float | None
    arguments: type[BaseModel]
    payload_parameter: str | None
    workflow: type | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        return self.function(*args, **kwargs)

    @property
    def description(self) -> str:
        return inspect.cleandoc((self.workflow or self.function).__doc__ or "")

    @property
    def result(self) -> Any:
        """The type of its result, for those who read it."""
        return get_type_hints(self.function).get("return")

    def types(self) -> list[Any]:
        """Of its parameters."""
        return [field.annotation for field in self.arguments.model_fields.values()]

    def task_queue(self, queue: str) -> str:
        """Where its activity waits: the server keeps a rate limit on a task queue of the job's own."""
        return f"{queue}.{self.name}" if self.per_second else queue

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """The job with its arguments, type-checked like a call."""
        return Call(self, self.bind(args, kwargs))

    async def submit(self, *args: P.args, **kwargs: P.kwargs) -> Submission:
        """Queue the job, type-checked like a call; `.call(…).submit(…)` takes options (delay, queue, priority, key)."""
        return await self.send(self.bind(args, kwargs))

    async def send(self, arguments: Mapping[str, Any], **options: Any) -> Submission:
        """Queue it with arguments by name; `options` as in `submission.prepare`.

        Raises pydantic.ValidationError, UnknownQueue, IdempotencyConflict.
        """
        return await submission.send(self, submission.prepare(self, arguments, **options))

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by name; raises TypeError if there are too many."""
        names = list(self.arguments.model_fields)
        if len(args) > len(names):
            raise TypeError(f"{self.name} takes {len(names)} arguments, not {len(args)}")
        if twice := kwargs.keys() & set(names[: len(args)]):
            raise TypeError(f"{self.name} got {', '.join(twice)} twice")
        return {**dict(zip(names, args, strict=False)), **kwargs}

    def positional(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """All arguments in their order, as they travel."""
        given = self.bind(args, kwargs)
        fields = self.arguments.model_fields
        return tuple(given[name] if name in given else field.get_default() for name, field in fields.items())

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the function will get them; raises pydantic.ValidationError."""
        model = self.arguments.model_validate(dict(arguments))
        return {name: getattr(model, name) for name in self.arguments.model_fields}


_declared: dict[str, Job[Any, Any]] = {}


class Declaration(Protocol):
    """What `@job(…)` answers: for a coroutine function, or a plain one, which runs in a thread."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> Job[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> Job[P, R]: ...


def job(
    *,
    queue: str | None = None,
    priority: int = 5,
    retry: RetryPolicy | None = DEFAULT_RETRY,
    idempotency_key: Callable[..., str] | None = None,
    no_key_because: str | None = None,
    soft_limit: float | None = None,
    hard_limit: float | None = None,
    singleton: Literal["wait", "skip"] | None = None,
    per_second: float | None = None,
) -> Declaration:
    """Declare a job; its name, and that of its activity, is the function's.

    `priority` 0–9, 9 is the most urgent. `retry=None`: never. `idempotency_key` makes the key from the arguments;
    `no_key_because` says why a second run does no harm. Limits in seconds: at the soft one it is cancelled, at the hard
    one given up. `singleton`: only one at a time; another waits (no try is spent) or is skipped. `per_second`: so many
    runs a second start in the whole fleet. Raises JobDeclarationError at import.
    """

    def declare(function: Callable[..., Any]) -> Job[..., Any]:
        name = getattr(function, "__name__", "")
        if workflow.unsafe.in_sandbox() and name in _declared:  # a workflow's module is loaded again for each run
            return _declared[name]
        if retry and not idempotency_key and not no_key_because:
            raise JobDeclarationError(
                f"job {name} retries but has no idempotency key: give idempotency_key=lambda …: …, "
                "or no_key_because='why a second run does no harm', or retry=None"
            )
        soft, hard = soft_limit or settings().soft_limit, hard_limit or settings().hard_limit
        if soft_limit is None and hard <= soft:
            soft = hard * 0.9
        if not soft < hard:
            raise JobDeclarationError(f"job {name}: soft_limit={soft:g} < hard_limit={hard:g} must hold")
        if per_second is not None and per_second <= 0:
            raise JobDeclarationError(f"job {name}: per_second={per_second:g} must be above 0")
        arguments, parameter = _arguments(name, function, [*inspect.signature(function, eval_str=True).parameters])
        declared = Job(
            activity.defn(name=name)(function), name, known_queue(queue) if queue else None, priority,
            retry or NO_RETRY, idempotency_key, soft, hard, singleton, per_second, arguments, parameter,
        )  # fmt: skip
        return _declare(declared)

    return declare


def workflow_job(
    run: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]],
    *,
    queue: str | None = None,
    priority: int = 5,
    idempotency_key: Callable[..., str] | None = None,
) -> Job[P, R]:
    """Declare a workflow, by the method that `@workflow.run` marks, as a job; its name is that of `@workflow.defn`.

    A workflow needs no key of its own to be safe: what it has done is remembered. Raises JobDeclarationError.
    """
    definition = workflow._Definition.from_run_fn(run)
    if definition is None or definition.name is None:
        raise JobDeclarationError(f"{run} is no workflow: it needs @workflow.run, its class @workflow.defn")
    if workflow.unsafe.in_sandbox() and definition.name in _declared:
        return _declared[definition.name]
    parameters = [*inspect.signature(run, eval_str=True).parameters][1:]
    arguments, parameter = _arguments(definition.name, run, parameters)
    limits = settings().soft_limit, settings().hard_limit
    declared = Job(
        run, definition.name, known_queue(queue) if queue else None, priority, NO_RETRY, idempotency_key,
        *limits, None, None, arguments, parameter, definition.cls,
    )  # fmt: skip
    return _declare(declared)


def _declare(declared: Job[Any, Any]) -> Job[Any, Any]:
    if declared.name in _declared:
        other = _declared[declared.name].function.__module__
        raise JobDeclarationError(f"job {declared.name} is declared twice; the other one is in {other}")
    if not 0 <= declared.priority <= 9:
        raise JobDeclarationError(f"job {declared.name}: priority={declared.priority} must be 0 to 9 (9: most urgent)")
    _declared[declared.name] = declared
    return declared


@cache
def jobs() -> dict[str, Job[Any, Any]]:
    """Every declared job by name."""
    for module in job_modules():
        import_module(module)
    return dict(sorted(_declared.items()))


def _arguments(job: str, function: Callable[..., Any], names: list[str]) -> tuple[type[BaseModel], str | None]:
    """These parameters as a model, and the name of the only one if that is a model itself."""
    fields: dict[str, Any] = {}
    for name in names:
        parameter = inspect.signature(function, eval_str=True).parameters[name]
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.KEYWORD_ONLY):
            raise JobDeclarationError(f"job {job}: parameter {name} must be positional: that is how Temporal passes it")
        annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
        fields[name] = (annotation, ... if parameter.default is parameter.empty else parameter.default)
    model = create_model(f"{job}_arguments", __config__=ConfigDict(extra="forbid"), **fields)
    single = next(iter(fields)) if len(fields) == 1 else None
    kind = fields[single][0] if single else None
    return model, single if inspect.isclass(kind) and issubclass(kind, BaseModel) else None
