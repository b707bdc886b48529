"""`@job` and `Schedule`: coroutine functions whose queue, retries and idempotency are said, and checked, where they are
written, and when they run.

A job that retries without an idempotency key charges twice some day; that is refused at import, not found in
production.
"""

import inspect
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import import_module
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypeVar, cast

from arq.cron import next_cron
from pydantic import BaseModel, ConfigDict, create_model

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
    """A declared job: called like the coroutine function that it is, or submitted with the same arguments."""

    function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]
    name: str
    queue: str | None
    priority: int
    retry: RetryPolicy
    key_of: Callable[..., str] | None
    soft_limit: float
    hard_limit: float
    singleton: Literal["wait", "skip"] | None
    arguments: type[BaseModel]
    payload_parameter: str | None

    def __call__(self, ctx: Any, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        return self.function(ctx, *args, **kwargs)

    @property
    def description(self) -> str:
        return inspect.cleandoc(self.function.__doc__ or "")

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """The job with its arguments, type-checked like a call."""
        return Call(self, self.bind(args, kwargs))

    async def submit(self, *args: P.args, **kwargs: P.kwargs) -> Submission:
        """Queue the job, type-checked like a call; `.call(…).submit(…)` takes options (delay, queue, priority, key)."""
        return await self.send(self.bind(args, kwargs))

    async def send(
        self, arguments: Mapping[str, Any], *, delay: float = 0, restart: bool = False, **options: Any
    ) -> Submission:
        """Queue it with arguments by name; `options` as in `submission.prepare`.

        `restart`: a job that has ended gives up its key. Raises pydantic.ValidationError, UnknownQueue,
        IdempotencyConflict.
        """
        spec = submission.prepare(self, arguments, **options)
        sent, _ = await submission.send(spec, delay=delay, restart=restart or bool(options.get("replay_of")))
        return sent

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by name; raises TypeError if there are too many."""
        names = list(self.arguments.model_fields)
        if len(args) > len(names):
            raise TypeError(f"{self.name} takes {len(names)} arguments, not {len(args)}")
        if twice := kwargs.keys() & set(names[: len(args)]):
            raise TypeError(f"{self.name} got {', '.join(twice)} twice")
        return {**dict(zip(names, args, strict=False)), **kwargs}

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the function will get them; raises pydantic.ValidationError."""
        model = self.arguments.model_validate(dict(arguments))
        return {name: getattr(model, name) for name in self.arguments.model_fields}


_declared: dict[str, Job[Any, Any]] = {}


class Declaration(Protocol):
    """What `@job(…)` answers. A Callable would take its parameters from `idempotency_key`, a lambda without types."""

    def __call__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]) -> Job[P, R]: ...


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
) -> Declaration:
    """Declare a job; its name is the function's, its first parameter is arq's `ctx`.

    `priority` 0–9, 9 is the most urgent. `retry=None`: never. `idempotency_key` makes the key from the arguments;
    `no_key_because` says why a second run does no harm. Limits in seconds: at the soft one it is cancelled, at the hard
    one given up. `singleton`: only one at a time; another waits (no try is spent) or is skipped. Raises
    JobDeclarationError at import.
    """

    def declare(function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]) -> Job[P, R]:
        name = getattr(function, "__name__", "")
        if not inspect.iscoroutinefunction(function):
            raise JobDeclarationError(f"job {name} must be an `async def`; call blocking code by asyncio.to_thread")
        if name in _declared:
            other = _declared[name].function.__module__
            raise JobDeclarationError(f"job {name} is declared twice; the other one is in {other}")
        if retry and not idempotency_key and not no_key_because:
            raise JobDeclarationError(
                f"job {name} retries but has no idempotency key: give idempotency_key=lambda …: …, "
                "or no_key_because='why a second run does no harm', or retry=None"
            )
        soft, hard = soft_limit or settings().soft_limit, hard_limit or settings().hard_limit
        if soft_limit is None and hard <= soft:
            soft = hard * 0.9
        if not soft < hard < settings().lock_ttl:
            raise JobDeclarationError(
                f"job {name}: soft_limit={soft:g} < hard_limit={hard:g} < LOCK_TTL={settings().lock_ttl:g} must hold"
            )
        if not 0 <= priority <= 9:
            raise JobDeclarationError(f"job {name}: priority={priority} must be 0 to 9 (9 is the most urgent)")
        arguments, parameter = _arguments(name, function)
        declared = _declared[name] = Job(
            function, name, known_queue(queue) if queue else None, priority, retry or NO_RETRY,
            idempotency_key, soft, hard, singleton, arguments, parameter,
        )  # fmt: skip
        return declared

    return declare


@cache
def jobs() -> dict[str, Job[Any, Any]]:
    """Every declared job by name."""
    for module in job_modules():
        import_module(module)
    return dict(sorted(_declared.items()))


def _arguments(job: str, function: Callable[..., Any]) -> tuple[type[BaseModel], str | None]:
    """The parameters after `ctx` as a model, and the name of the only one if that is a model itself."""
    fields: dict[str, Any] = {}
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    if not parameters:
        raise JobDeclarationError(f"job {job} has no parameter for `ctx`, which arq passes first")
    for parameter in parameters[1:]:
        name = parameter.name
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise JobDeclarationError(
                f"job {job}: parameter {name} must be an ordinary one, so that payloads have names"
            )
        annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
        fields[name] = (annotation, ... if parameter.default is parameter.empty else parameter.default)
    model = create_model(f"{job}_arguments", __config__=ConfigDict(extra="forbid"), **fields)
    single = next(iter(fields)) if len(fields) == 1 else None
    kind = fields[single][0] if single else None
    return model, single if inspect.isclass(kind) and issubclass(kind, BaseModel) else None


BOUNDS = {"month": (1, 12), "day": (1, 31), "weekday": (0, 6), "hour": (0, 23), "minute": (0, 59), "second": (0, 59)}
LONGEST = {1: 31, 2: 29, 3: 31, 4: 30, 5: 31, 6: 30, 7: 31, 8: 31, 9: 30, 10: 31, 11: 30, 12: 31}  # days of a month
Numbers = int | set[int] | None


class Cron:
    """Times in UTC, in the terms of `arq.cron`: each unit a number or a set of them; a weekday 0 (Monday) to 6.

    Raises JobDeclarationError for one that never fires; arq itself would look for it for ever.
    """

    def __init__(
        self, *, month: Numbers = None, day: Numbers = None, weekday: Numbers = None,
        hour: Numbers = None, minute: Numbers = None, second: Numbers = 0,
    ) -> None:  # fmt: skip
        given = {"month": month, "day": day, "weekday": weekday, "hour": hour, "minute": minute, "second": second}
        self.when = {unit: {value} if isinstance(value, int) else value for unit, value in given.items()}
        self.text = " ".join(f"{unit}={value}" for unit, value in given.items() if value is not None)
        for unit, numbers in self.when.items():
            low, high = BOUNDS[unit]
            if numbers is not None and not (numbers and numbers <= set(range(low, high + 1))):
                raise JobDeclarationError(f"Cron({self.text}) never fires: {unit} takes numbers from {low} to {high}")
        if min(self.when["day"] or {1}) > max(LONGEST[number] for number in self.when["month"] or LONGEST):
            raise JobDeclarationError(f"Cron({self.text}) never fires: those months have no such day")

    def after(self, moment: datetime) -> datetime:
        """The first time after this one."""
        return next_cron(moment, **cast("dict[str, Any]", self.when), microsecond=0)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Run `job` at each time of `when`: a `Cron` (UTC) or a timedelta.

    With `key`, the job is submitted only if none with this key is alive: for jobs that go on by themselves (polling).
    """

    name: str
    job: Job[Any, Any]
    when: Cron | timedelta
    payload: dict[str, Any] | None = None
    key: str | None = None

    @property
    def times(self) -> str:
        """In words."""
        return f"every {self.when}" if isinstance(self.when, timedelta) else self.when.text

    def due_after(self, moment: float) -> float:
        """The first firing after this time."""
        then = datetime.fromtimestamp(moment, UTC)
        return (then + self.when if isinstance(self.when, timedelta) else self.when.after(then)).timestamp()
