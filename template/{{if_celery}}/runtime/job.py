"""`@job` and `Schedule`: ordinary Celery tasks whose queue, retries and idempotency are said, and checked, where they
are written, and when they run.

A job that retries without an idempotency key charges twice some day; that is refused at import, not found in
production.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol

from celery.schedules import crontab
from pydantic import BaseModel, ConfigDict, create_model

from ..contract import JobDeclarationError
from ..settings import settings
from .retry import NO_RETRY, RetryPolicy
from .routing import known_queue
from .submission import P, R
from .task import JobTask

DEFAULT_RETRY = RetryPolicy()


class Declaration(Protocol):
    """What `@job(…)` answers. A Callable would take its parameters from `idempotency_key`, a lambda without types."""

    def __call__(self, function: Callable[P, R]) -> JobTask[P, R]: ...


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
    outcome: bool = False,
) -> Declaration:
    """Declare a job; its name is the function's.

    `priority` 0–9, 9 is the most urgent. `retry=None`: never. `idempotency_key` makes the key from the arguments;
    `no_key_because` says why a second run does no harm. Limits in seconds. `singleton`: only one at a time; another
    waits (no try is spent) or is skipped. `outcome`: the result is wrapped as `{"ok": …}`, and a failed part of a
    group is handed to the fan-in as `{"ok": false, "error": …}` instead of failing it. Raises JobDeclarationError at
    import.
    """

    def declare(function: Callable[P, R]) -> JobTask[P, R]:
        from ..celery import app  # here, since the app's configuration needs the runtime

        name = getattr(function, "__name__", repr(function))
        if problem := _not_runnable(function):
            raise JobDeclarationError(f"job {name} ({_place(function)}) {problem}")
        if name in app.tasks:
            raise JobDeclarationError(f"job {name} is declared twice; the other one is in {app.tasks[name].__module__}")
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
        return app.task(
            name=name,
            lazy=False,
            base=JobTask,
            job_queue=known_queue(queue) if queue else None,
            job_priority=priority,
            retry_policy=retry or NO_RETRY,
            key_of=staticmethod(idempotency_key) if idempotency_key else None,
            soft_time_limit=soft,
            time_limit=hard,
            singleton=singleton,
            outcome=outcome,
            arguments=arguments,
            payload_parameter=parameter,
        )(function)

    return declare


def _not_runnable(function: Any) -> str | None:
    """What a pool process cannot run, or what has no name of its own to be sent under; and what to do."""
    if inspect.iscoroutinefunction(function):
        return "is a coroutine function, and nothing would await it: write `def` and call asyncio.run(…) inside"
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        return "is a generator, and nothing would iterate over it: return a list, or submit a job for each value"
    if inspect.isclass(function) or not getattr(function, "__name__", "").isidentifier():  # a lambda, a partial
        return "is no function with a name that a message can carry: write `def`, and call it inside"
    return None


def _place(function: Any) -> str:
    """Where it is written: file and line, or else the module."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else str(getattr(function, "__module__", None))


def _arguments(job: str, function: Callable[..., Any]) -> tuple[type[BaseModel], str | None]:
    """The parameters as a model, and the name of the only one if that is a model itself."""
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
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


@dataclass(frozen=True, slots=True)
class Schedule:
    """Run `job` at each time of `when`: a `celery.schedules.crontab` (UTC) or a timedelta.

    With `key`, the job is submitted only if none with this key is alive: for jobs that go on by themselves (polling).
    """

    name: str
    job: JobTask[Any, Any]
    when: crontab | timedelta
    payload: dict[str, Any] | None = None
    key: str | None = None

    @property
    def times(self) -> str:
        """In words."""
        return f"every {self.when}" if isinstance(self.when, timedelta) else str(self.when).strip("<>")

    def due_after(self, moment: float) -> float:
        """The first firing after this time."""
        then = datetime.fromtimestamp(moment, UTC)
        start, delta, _ = (
            (then, self.when, None) if isinstance(self.when, timedelta) else self.when.remaining_delta(then)
        )
        return (start + delta).timestamp()
