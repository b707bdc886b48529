"""Each idiom of ARQ keeps the promises here or is refused in words; a test for each line of docs/idioms/arq.md."""

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ..contract.installed import Installed
from ..contract.processes import until
from ..contract.service import Service, running
from ..contract.test_arq import edited, source

# A program of the service: it does each of these, and prints what came of it, or the error.
CLIENT = """
import asyncio, json, sys
from datetime import UTC, datetime, timedelta
from arq import create_pool
from arq.connections import RedisSettings
from arq.jobs import Job
from {package}.runtime.connection import connect
from {package}.settings import settings

async def main():
    pool = connect()
    found = {{}}

    async def note(name, call):
        try:
            found[name] = await call
        except (Exception, asyncio.CancelledError) as error:
            found[name] = f"{{type(error).__name__}}: {{error}}"

    async def send(*given, **options):
        job = await pool.enqueue_job(*given, **options)
        return job and job.job_id

    async def statuses():
        return [str(await (await pool.job(found[job])).status()) for job in ("deferred", "urgent", "echo")]

    effect = {{"key": "order-1"}}
    await note("first", send("effect", effect, _expires=600))
    await note("second", send("effect", effect, _expires=timedelta(seconds=600)))
    await note("expires", send("mark", "expired", _expires=0.5, _defer_by=1.5))
    await note("begins in time", send("mark", "in time", _expires=60, _defer_by=0.5))
    await note("_job_try", send("mark", "refused", _job_try=2))
    await note("_expires=0", send("mark", "refused", _expires=0))
    await note("misspelt", send("mark", "refused", _priority=9))
    await note("both", send("mark", "refused", _defer_by=1, _defer_until=datetime.now(UTC)))
    await note("_queue_name", send("mark", "bulk", _queue_name="arq:queue:bulk"))
    await note("no queue", send("mark", "refused", _queue_name="arq:queue"))
    await note("_job_id", send("mark", "own id", _job_id="own-id"))
    await note("_job_id again", send("mark", "own id", _job_id="own-id"))
    await note("retry", send("asks_for_a_retry", "retry", 1.5))
    await note("retry at once", send("asks_for_a_retry", "retry at once"))
    await note("retries", send("asks_for_a_retry", "retries", 0.1, 9))
    await note("context", send("shows_its_context", "context"))
    await note("deferred", send("mark", "deferred", _defer_until=datetime.now(UTC) + timedelta(hours=1)))
    await note("naive", send("mark", "naive", _defer_until=datetime.now() + timedelta(seconds=1)))
    await note("urgent", send("mark", "urgent", 60))
    await note("echo", send("mark", "echo"))
    await note("result", (await pool.job(found["echo"])).result(timeout=20, poll_delay=0.1))
    await note("statuses", statuses())
    await note("no status", (await pool.job("no-such-job")).status())
    await note("info", (await pool.job(found["deferred"])).info())
    found["info"] = [found["info"].function, list(found["info"].args)]
    await note("failed", send("ends", "error", "failed"))
    await note("raises", (await pool.job(found["failed"])).result(timeout=20, poll_delay=0.1))
    await note("abort of what runs", (await pool.job(found["urgent"])).abort(timeout=20, poll_delay=0.1))
    await note("abort of what waits", (await pool.job(found["deferred"])).abort(timeout=20, poll_delay=0.1))
    await note("raises when aborted", (await pool.job(found["deferred"])).result(timeout=5))
    await note("queued jobs", pool.queued_jobs())
    await note("all results", pool.all_job_results())
    found["all results"] = sorted(result.function for result in found["all results"] if result.job_id == found["echo"])
    found["queued jobs"] = isinstance(found["queued jobs"], list)

    address = RedisSettings.from_dsn(settings().require_redis_url())
    foreign = await create_pool(
        address, job_serializer=lambda value: json.dumps(value).encode(), job_deserializer=json.loads,
        default_queue_name="arq:queue:default",
    )
    job = await foreign.enqueue_job("mark", "foreign", _defer_by=3600)
    found["foreign"] = job.job_id
    await note("foreign abort", job.abort(timeout=20, poll_delay=0.1))
    await note("Job(id, redis)", Job(found["first"], foreign).status())
    print(json.dumps(found))

asyncio.run(main())
"""

# arq as it comes: pickled, into a queue that no worker of ours reads.
STRAY = """
import asyncio, sys
from arq import create_pool
from arq.connections import RedisSettings

async def main():
    pool = await create_pool(RedisSettings.from_dsn(sys.argv[1]))
    if sys.argv[2] == "send":
        await pool.enqueue_job("mark", "stray")
    else:
        await pool.delete("arq:queue")

asyncio.run(main())
"""

OPTIONS = """
import json
from datetime import UTC
from arq import cron, func
from arq.connections import RedisSettings
from {package}.contract import JobDeclarationError
from {package}.jobs.probes import mark
from {package}.ops.native import INSTEAD, OPTIONS, options
from {package}.worker import WorkerSettings

async def plain(ctx): ...

every = WorkerSettings.functions
rest = [function for function in every if function.name != "mark"]
given = {{name: {{name: None}} for name in INSTEAD}}
given |= {{
    "cron_jobs": {{"cron_jobs": [cron(plain, minute=1)]}},
    "redis_settings": {{"redis_settings": RedisSettings(host="elsewhere")}},
    "plain function": {{"functions": [*every, plain]}},
    "another function of this name": {{"functions": [*rest, func(plain, name="mark")]}},
    "function with timeout": {{"functions": [*rest, func(mark.function, name="mark", timeout=3)]}},
    "one job only": {{"functions": [func(mark.function, name="mark")]}},
}}
found = {{"as it is": sorted(options(WorkerSettings)), "known": sorted(OPTIONS), "refused": sorted(INSTEAD)}}
for name, attributes in given.items():
    try:
        options(type("Mine", (WorkerSettings,), attributes))
        found[name] = "accepted"
    except JobDeclarationError as error:
        found[name] = str(error)
print(json.dumps(found))
"""

HOOKS = """

async def tell(ctx, label):
    about = {"label": label, "id": ctx["job_id"]}
    await ctx["http"].post(f"{settings().payment_gateway_url}/effects", json=about)

async def on_job_start(ctx):
    ctx["hooks"] = ["started", ctx["job_id"], ctx["job_try"]]

async def on_job_end(ctx):
    await tell(ctx, "on_job_end")
    raise RuntimeError("a hook fails")

async def after_job_end(ctx):
    await tell(ctx, "after_job_end")

class Hooked(WorkerSettings):
    on_job_start = on_job_start
    on_job_end = on_job_end
    after_job_end = after_job_end
    ctx = {"given": 1}

WorkerSettings = Hooked
"""


def run(service: Service, code: str, *arguments: str) -> Any:
    """What a program of the service prints, as JSON."""
    command = [service.installed.python, "-c", code.format(package=service.installed.package), *arguments]
    printed = subprocess.run(
        command, cwd=service.folder, env=service.environment, text=True, capture_output=True, timeout=120
    )
    assert printed.returncode == 0, printed.stderr
    return json.loads(printed.stdout or "null")


@pytest.fixture(scope="module")
def served(installed: Installed) -> Iterator[Service]:
    with running(installed) as service:
        yield service


@pytest.fixture(scope="module")
def did(served: Service) -> dict[str, Any]:
    return run(served, CLIENT)


def test_expires_keeps_key_and_queue(served: Service, did: dict[str, Any]) -> None:
    assert did["second"] is None
    assert served.wait(did["first"])["idempotency_key"] == "order-1"
    assert len(served.effects(label="start order-1")) == 1


def test_a_job_that_has_not_begun_when_it_expires_is_cancelled(served: Service, did: dict[str, Any]) -> None:
    status = served.wait(did["expires"], "cancelled")
    assert status["error"].startswith("expired")
    assert (status["attempts"], status["dead_letter"]) == (0, False)
    assert served.effects(label="expired") == []
    assert served.wait(did["begins in time"])["attempts"] == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("_job_try", "TypeError: enqueue_job(_job_try=…): attempts are counted in the record"),
        ("_expires=0", "ValueError: enqueue_job(_expires=0): it must be above 0 seconds"),
        ("misspelt", "TypeError: enqueue_job() has no option _priority; there are _job_id"),
        ("both", "TypeError: enqueue_job() takes _defer_by or _defer_until, not both"),
        ("no queue", "UnknownQueue: "),
    ],
)
def test_an_option_without_effect_is_refused(served: Service, did: dict[str, Any], name: str, words: str) -> None:
    assert str(did[name]).startswith(words)
    assert served.effects(label="refused") == []


def test_queue_id_and_time_are_honoured(served: Service, did: dict[str, Any]) -> None:
    assert served.wait(did["_queue_name"])["queue"] == "bulk"
    assert (did["_job_id"], did["_job_id again"]) == ("own-id", None)
    assert served.wait("own-id")["attempts"] == 1
    assert served.wait(did["naive"])["attempts"] == 1


def test_retry_is_a_retry_with_that_delay(served: Service, did: dict[str, Any]) -> None:
    assert served.wait(did["retry"])["attempts"] == 2
    first, second = served.effects(label="retry")
    assert 1.4 <= second["at"] - first["at"] < 5
    assert served.wait(did["retry at once"])["attempts"] == 2


def test_retry_ends_when_the_attempts_of_the_policy_do(served: Service, did: dict[str, Any]) -> None:
    status = served.wait(did["retries"], "failed")
    assert status["attempts"] == 3
    assert served.get(f"/dead-letters/{did['retries']}")["reason"] == "exhausted"
    assert status["error"] == "Retry: <Retry defer 0.10s>"


def test_ctx_holds_what_arq_gives(served: Service, did: dict[str, Any]) -> None:
    served.wait(did["context"])
    assert {"job_id", "job_try", "enqueue_time", "redis", "http"} <= set(served.result(did["context"]))


def test_a_handle_knows_status_info_and_result(served: Service, did: dict[str, Any]) -> None:
    deferred, urgent, echo = did["statuses"]
    assert "deferred" in deferred
    assert "in_progress" in urgent or "queued" in urgent
    assert "complete" in echo
    assert did["result"] == "echo"
    assert "not_found" in str(did["no status"])
    assert did["info"] == ["mark", []]
    assert did["raises"] == "JobFailed: RuntimeError: simply failed"
    assert did["all results"] == ["mark"]
    assert did["queued jobs"] is True


def test_abort_stops_what_runs_and_what_waits(served: Service, did: dict[str, Any]) -> None:
    assert did["abort of what runs"] is True
    assert served.wait(did["urgent"], "cancelled")["attempts"] == 1
    assert did["abort of what waits"] is True
    assert served.wait(did["deferred"], "cancelled")["attempts"] == 0
    assert served.effects(label="deferred") == []
    assert did["raises when aborted"].startswith("CancelledError")


def test_abort_by_another_client_of_arq_stops_its_job(served: Service, did: dict[str, Any]) -> None:
    served.wait(did["foreign"], "cancelled")
    assert served.effects(label="foreign") == []
    assert did["foreign abort"] == "SerializationError: cancelled", "JSON brings it no exception"


def test_jobs_that_no_worker_reads_are_found(served: Service) -> None:
    address = served.environment[served.installed.stack.broker_variable]
    run(served, STRAY, address, "send")
    try:
        until(lambda: not served.health()["ok"], 10)
        assert "1 jobs wait in arq:queue, which no worker reads" in str(served.health()["reasons"])
        assert "1 jobs wait in arq:queue" in served.cli("doctor", code=1)
    finally:
        run(served, STRAY, address, "remove")
    until(lambda: served.health()["ok"], 10, served.health)


def test_each_option_of_arqs_worker_has_its_effect_or_is_refused(served: Service) -> None:
    found = run(served, OPTIONS)
    honoured = {
        "functions", "burst", "ctx", "redis_settings", "health_check_key", "health_check_interval",
        "on_startup", "on_shutdown", "on_job_start", "on_job_end", "after_job_end",
    }  # fmt: skip
    refused = set(found.pop("refused"))
    assert set(found.pop("known")) == honoured | refused
    assert set(found.pop("as it is")) <= honoured
    for name, words in found.items():
        assert words.startswith("WorkerSettings."), name
        assert "in worker.py" in words
    for name in refused:
        assert found[name].startswith(f"WorkerSettings.{name} in worker.py has no effect here: ")
    assert "plain is no job of this service; declare it with @job" in found["plain function"]
    assert "mark is no job of this service" in found["another function of this name"]
    assert "timeout_s of mark" in found["function with timeout"]
    assert "lacks " in found["one job only"]


def test_a_worker_with_an_option_without_effect_does_not_start(installed: Installed, served: Service) -> None:
    worker = source(installed, "worker.py")
    with edited(worker, worker.read_text() + "    max_jobs = 3\n"):
        said = served.cli("worker", code=2)
        assert "WorkerSettings.max_jobs in worker.py has no effect here: set the concurrency of the queues" in said
        arq = [installed.python.with_name("arq"), f"{installed.package}.worker.WorkerSettings"]
        done = subprocess.run(
            arq, cwd=served.folder, env=served.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode != 0
        assert "WorkerSettings.max_jobs in worker.py has no effect here" in done.stderr
        assert "WorkerSettings.max_jobs in worker.py" in served.cli("doctor", code=1)


@pytest.mark.parametrize("command", ["own", "arq"])
def test_the_hooks_around_a_job_run_and_an_error_in_one_harms_nothing(installed: Installed, command: str) -> None:
    worker = source(installed, "worker.py")
    imported = f"\n\nfrom {installed.package}.settings import settings  # noqa: E402\n"
    with edited(worker, worker.read_text() + imported + HOOKS), running(installed, workers=0) as service:
        if command == "own":
            service.start_worker()
        else:
            arq = installed.python.with_name("arq")
            service.start("worker", arq, f"{installed.package}.worker.WorkerSettings")
        service.wait_for_workers(1)
        job = service.submit("shows_its_context", {"label": "hooked"})
        service.wait(job)
        assert "given" in service.result(job)
        [told] = service.effects(label="hooked")
        assert told["hooks"] == ["started", job, 1]
        assert [ended["id"] for ended in service.told("on_job_end")] == [job]
        assert [ended["id"] for ended in service.told("after_job_end")] == [job]
        failed = service.submit("ends", {"kind": "system_exit", "label": "hooked failure"})
        assert service.wait(failed, "failed")["error"] == "SystemExit: 3"
        service.told("on_job_end", 2)
        service.told("after_job_end", 2)
        assert service.wait(service.submit("mark", {"label": "still there"}))["attempts"] == 1


def test_burst_runs_what_all_queues_hold_and_ends(installed: Installed) -> None:
    with running(installed, workers=0) as service:
        jobs = [service.submit("mark", {"label": "burst"}, queue=queue["name"]) for queue in service.get("/queues")]
        jobs.append(service.submit("mark", {"label": "burst"}, delay=1))
        jobs.append(service.submit("flaky", {"label": "flaky", "times": 1}))
        arq = installed.python.with_name("arq")
        worker = service.start("worker", arq, f"{installed.package}.worker.WorkerSettings", "--burst")
        began = time.monotonic()
        assert worker.wait(within=60) == 0
        assert time.monotonic() - began < 60
        assert [service.status(job)["state"] for job in jobs] == ["succeeded"] * len(jobs)
