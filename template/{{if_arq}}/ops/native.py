"""The options of arq's own worker: each has its effect here, or the worker does not start and says what to use instead.

An option that is silently ignored is found in production: a cron job that never fires, a limit that does not hold.
"""

import asyncio
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from arq.connections import RedisSettings
from arq.worker import Worker, func
from redis.exceptions import RedisError

from ..contract import JobDeclarationError
from ..runtime import sentinels
from ..runtime.connection import close
from ..runtime.job import jobs
from ..settings import NotConfigured, settings
from . import backlog

STRAY = (
    "send with this service's client (`runtime.connection.connect`), or give `create_pool` its queue and JSON, "
    "as README.md shows; and remove the key"
)
OPTIONS = tuple(inspect.signature(Worker).parameters)
INSTEAD = {
    "queue_name": "queues are in queues.py, and `worker --queue` chooses some of them",
    "cron_jobs": "declare a Schedule in SCHEDULES of a module in jobs/; the scheduler fires it",
    "timezone": "the times of a Cron are UTC",
    "redis_pool": "the worker connects to REDIS_URL",
    "handle_signals": "the worker drains on SIGTERM; run it as a process of its own",
    "job_completion_wait": "set DRAIN",
    "max_jobs": "set the concurrency of the queues in queues.py",
    "job_timeout": "give @job(soft_limit=…, hard_limit=…), or set SOFT_LIMIT and HARD_LIMIT",
    "keep_result": "set RESULT_TTL",
    "keep_result_forever": "set RESULT_TTL",
    "poll_delay": "the worker is woken when a job is due",
    "queue_read_limit": "the worker takes as many jobs as it has free slots",
    "max_tries": "give @job(retry=RetryPolicy(attempts=…))",
    "retry_jobs": "give @job(retry=None)",
    "allow_abort_jobs": "jobs can always be aborted",
    "max_burst_jobs": "`--burst` runs all there are",
    "job_serializer": "messages and results are JSON",
    "job_deserializer": "messages and results are JSON",
    "expires_extra_ms": "a message lasts as long as its job; `_expires` of enqueue_job says until when it may begin",
    "log_results": "results are never logged",
}
OF_FUNCTIONS = {
    "timeout_s": "give @job(soft_limit=…, hard_limit=…)",
    "max_tries": "give @job(retry=RetryPolicy(attempts=…))",
    "keep_result_s": "set RESULT_TTL",
    "keep_result_forever": "set RESULT_TTL",
}


def options(worker_settings: type | dict[str, Any]) -> dict[str, Any]:
    """What WorkerSettings says, a class that it inherits from included. Raises JobDeclarationError as `require`."""
    given = SimpleNamespace(**worker_settings) if isinstance(worker_settings, dict) else worker_settings
    found = {name: getattr(given, name) for name in OPTIONS if hasattr(given, name)}
    require(found)
    return found


def require(given: Mapping[str, Any]) -> None:
    """Raise JobDeclarationError for what would have no effect."""
    for name in INSTEAD:
        if name in given:
            raise _without_effect(name, INSTEAD[name])
    if given.get("redis_settings", address()) != address():
        raise _without_effect("redis_settings", INSTEAD["redis_pool"])
    functions = [func(function) for function in given.get("functions", ())]
    for function in functions:
        job = jobs().get(function.name)
        if job is None or job.function is not function.coroutine:
            raise JobDeclarationError(
                f"WorkerSettings.functions in worker.py: {function.name} is no job of this service; "
                "declare it with @job in a module of jobs/"
            )
        for name, instead in OF_FUNCTIONS.items():
            if getattr(function, name) is not None:
                raise _without_effect(f"functions: {name} of {function.name}", instead)
    if missing := jobs().keys() - {function.name for function in functions}:
        raise JobDeclarationError(
            f"WorkerSettings.functions in worker.py lacks {', '.join(sorted(missing))}: "
            "a worker runs all jobs of its queues, `worker --queue` chooses those"
        )


def _without_effect(what: str, instead: str) -> JobDeclarationError:
    return JobDeclarationError(f"WorkerSettings.{what} in worker.py has no effect here: {instead}")


def address() -> RedisSettings:
    """Our address in arq's terms, for `arq --check`. Raises NotConfigured."""
    url = settings().require_redis_url()
    common: dict[str, Any] = {"conn_timeout": 1, "ssl_check_hostname": True}
    if url.startswith("sentinel://"):
        nodes, login = sentinels.parse(url)
        login["database"] = login.pop("db")
        return RedisSettings(host=nodes, sentinel=True, sentinel_master=settings().sentinel_master, **login, **common)
    found = RedisSettings.from_dsn(url)  # which leaves most of the query out
    return replace(found, **common, ssl_ca_certs=dict(parse_qsl(urlsplit(url).query)).get("ssl_ca_certs"))


def check() -> Iterator[tuple[str, str, str]]:
    """For `doctor`, as (where, problem, how to solve it)."""
    try:
        from ..worker import WorkerSettings  # here: it needs this module

        options(WorkerSettings)
        strays = asyncio.run(_strays())
    except JobDeclarationError as error:
        yield "worker.py", str(error), "change it; until then no worker starts"
    except (NotConfigured, RedisError, OSError):  # the check of the broker reports it
        return
    else:
        for key, count in strays.items():
            yield "Redis", f"{count} jobs wait in {key}, which no worker reads", STRAY


async def _strays() -> dict[str, int]:
    try:
        return await backlog.strays()
    finally:
        await close()
