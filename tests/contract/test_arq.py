"""What only ARQ promises: its own client and command still work, and one event loop per worker endangers nothing else.

Collected with `--stack arq` (conftest.py).
"""

import json
import re
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from .installed import Installed
from .processes import until
from .service import Service, running

LEASE = 24  # seconds, the default

# A program that knows arq, but not the service: it submits, looks, and waits for the result while the job runs.
PLAIN_CLIENT = """
import asyncio, json, sys
from arq import create_pool
from arq.connections import RedisSettings

async def main(url, label):
    pool = await create_pool(
        RedisSettings.from_dsn(url),
        job_serializer=lambda value: json.dumps(value).encode(),
        job_deserializer=json.loads,
        default_queue_name="arq:queue:default",
    )
    job = await pool.enqueue_job("mark", label, seconds=1, _defer_by=1)
    before = await job.status()
    result = await job.result(timeout=20, poll_delay=0.1)
    print(json.dumps([job.job_id, before, result, await job.status()]))
    print((await pool.enqueue_job("permanent", label=label)).job_id)
    print((await pool.enqueue_job("mark", labell=label)).job_id)

asyncio.run(main(*sys.argv[1:]))
"""

BACKLOG = """
import asyncio, json
from {package}.ops.engine import engine

async def main():
    sent = [await asyncio.gather(*(engine().submit("crowd", {{}}) for _ in range(20))) for _ in range(50)]
    print(json.dumps([job.id for batch in sent for job in batch]))

asyncio.run(main())
"""


@contextmanager
def edited(path: Path, content: str) -> Generator[None, None, None]:
    """A file of the installed service with another content, put back (or removed) afterwards."""
    before = path.read_text() if path.exists() else None
    path.write_text(content)
    try:
        yield
    finally:
        path.unlink() if before is None else path.write_text(before)


def source(installed: Installed, path: str) -> Path:
    return installed.folder / "src" / installed.package / path


def failed(service: Service, job: str) -> dict[str, Any]:
    """The dead letter of a job that failed."""
    assert service.wait(job, "failed")["dead_letter"]
    return service.get(f"/dead-letters/{job}")


def test_a_plain_arq_client_submits_jobs_and_waits_for_their_results(service: Service) -> None:
    label, python = str(uuid4()), service.installed.python
    address = service.environment[service.installed.stack.broker_variable]
    printed = subprocess.check_output([python, "-c", PLAIN_CLIENT, address, label], text=True, timeout=60)
    done, *others = printed.splitlines()
    job, before, result, after = json.loads(done)
    assert (before, result, after) == ("deferred", label, "complete")
    status = service.wait(job)
    assert (status["name"], status["queue"], status["attempts"]) == ("mark", "default", 1)
    for other in others:  # a worker is the first of us that hears of it
        until(lambda other=other: service.http.get(f"/api/v1/jobs/{other}").status_code == 200, 10)
    refused, misspelt = (failed(service, other) for other in others)
    assert (refused["reason"], refused["payload"]) == ("permanent", {"label": label})
    assert "labell" in misspelt["error"]


def test_arqs_own_command_runs_the_jobs_and_tells_whether_a_worker_lives(installed: Installed) -> None:
    settings = f"{installed.package}.worker.WorkerSettings"
    arq = installed.python.with_name("arq")
    with running(installed, workers=0) as service:

        def check() -> int:
            return subprocess.call([arq, settings, "--check"], cwd=service.folder, env=service.environment, timeout=30)

        assert check() == 1
        worker = service.start("worker", arq, settings)
        service.wait(service.submit("mark", {"label": "native"}))
        assert service.wait(service.submit("flaky", {"label": "native", "times": 1}))["attempts"] == 2
        service.wait_for_workers(1)
        assert check() == 0
        worker.stop(within=15)


def test_eight_workers_of_sixty_slots_run_at_least_360_long_jobs_at_once(installed: Installed) -> None:
    queues = source(installed, "queues.py")
    wide, replaced = re.subn(r'(Queue\("default", concurrency=)\d+', r"\g<1>60", queues.read_text())
    assert replaced == 1
    with edited(queues, wide), running(installed, workers=0) as service:
        for _ in range(400):
            service.submit("mark", {"label": "long", "seconds": 120})
        for _ in range(8):
            service.start_worker("default")
        service.told("long", 360, within=60)
        assert service.queue("default")["in_flight"] >= 360
        began = [told["id"] for told in service.effects(label="long")]
        assert len(set(began)) == len(began)


def test_of_a_backlog_no_more_run_at_once_than_there_are_slots_and_a_drain_loses_none_that_is_being_taken(
    installed: Installed,
) -> None:
    with running(installed, workers=0) as service:
        code = BACKLOG.format(package=installed.package)
        command = [installed.python, "-c", code]
        jobs = json.loads(subprocess.check_output(command, cwd=service.folder, env=service.environment, text=True))
        for done in (100, 300, 500):
            worker = service.start_worker()
            service.wait_for_workers(1)  # before that, SIGTERM ends it at once
            until(lambda done=done: service.metric("jobs_finished_total", outcome="succeeded") >= done, 20)
            assert worker.stop(within=15) == 0
        service.start_worker()
        service.wait_for_workers(1)
        [slots] = [found["concurrency"] for found in service.health()["workers"]]
        ended = [service.wait(job) for job in jobs]
        assert {status["attempts"] for status in ended} == {1}
        assert service.metric("jobs_finished_total", outcome="lost") == 0
        assert max(service.result(job) for job in jobs) == slots


def test_a_job_that_blocks_its_worker_for_longer_than_the_lease_is_not_run_twice(installed: Installed) -> None:
    """Nor are those beside it, which cannot go on meanwhile; the other worker has nothing to do but to take over."""
    with running(installed, workers=2, lease=3, renewal=1) as service:
        beside = [f"beside {number}" for number in range(4)]
        jobs = [service.submit("mark", {"label": label, "seconds": 2}) for label in beside]
        for label in beside:
            service.told(label)
        jobs.append(service.submit("blocks", {"label": "blocks", "seconds": 8}))
        assert [service.wait(job)["attempts"] for job in jobs] == [1] * 5
        assert sorted(told["label"] for told in service.effects()) == [*beside, "blocks"]


def test_a_job_that_blocks_its_worker_beyond_its_limit_costs_the_process_not_the_service(installed: Installed) -> None:
    with running(installed, soft_limit=2, hard_limit=3) as service:
        job = service.submit("blocks", {"label": "blocked", "seconds": 120})
        assert failed(service, job)["reason"] == "timed out"
        assert len(service.effects(label="blocked")) == 1
        service.wait(service.submit("noop"))


def test_a_job_that_does_not_hear_that_it_is_over_time_does_not_keep_its_worker_from_stopping(
    installed: Installed,
) -> None:
    with running(installed) as service:
        assert failed(service, service.submit("overrun", {"label": "deaf", "deaf": True}))["reason"] == "timed out"
        [worker] = service.workers
        assert worker.stop(within=15) == 0


def test_a_result_that_is_no_json_is_a_failure_that_names_job_and_type(service: Service) -> None:
    error = failed(service, service.submit("unserialisable"))["error"]
    assert "unserialisable" in error
    assert "object" in error


def test_an_exception_that_cannot_be_serialised_still_ends_as_a_dead_letter(service: Service) -> None:
    letter = failed(service, service.submit("unspeakable"))
    assert letter["reason"] == "unexpected"
    assert "Unspeakable" in letter["error"]
    assert "in unspeakable" in letter["traceback"]
    service.wait(service.submit("noop"))


@pytest.mark.parametrize("command", ["worker", "scheduler", "api"])
def test_a_cron_that_never_fires_is_refused_at_start(service: Service, command: str) -> None:
    module = """
from ..runtime import Cron, Schedule
from .probes import noop

SCHEDULES = [Schedule("never", noop, Cron(month={2}, day={30}))]
"""
    with edited(source(service.installed, "jobs/never.py"), module):
        said = service.cli(command, code=2)
    assert "never fires" in said
    assert "30" in said


def test_a_group_of_200_reports_each_part_that_failed(service: Service) -> None:
    items = [{"sku": f"A{number}", "price_cents": -1 if number % 10 == 0 else 100} for number in range(200)]
    job = service.submit("import_catalog", {"supplier": "acme", "items": items})
    service.wait(job)
    summary = service.result(job)
    service.wait(summary)
    result = service.result(summary)
    assert (result["imported"], len(result["failed"])) == (180, 20)
    for part, error in result["failed"].items():
        assert "costs -1 cents" in error
        assert service.status(part)["dead_letter"]


def test_a_chain_that_broke_names_the_step_that_failed(service: Service) -> None:
    label = str(uuid4())
    job = service.submit("three_steps", {"label": label})
    service.wait(job)
    last = service.wait(service.result(job), "failed")
    assert "step permanent" in last["error"]
    assert f"{label} 2: card expired" in last["error"]
    assert not last["dead_letter"], "that is the step that failed"
    assert len(service.effects(label=f"{label} 1")) == 1
    assert service.effects(label=f"{label} 3") == []


def test_each_round_of_a_poll_starts_a_workflow_of_its_own(service: Service) -> None:
    label = str(uuid4())
    job = service.submit("rounds", {"label": label})
    assert len({told["id"] for told in service.told(label, 3)}) >= 3
    service.http.delete(f"/api/v1/jobs/{job}")
    service.wait(job, "cancelled")


def test_a_killed_workers_job_is_taken_over_within_the_lease_though_its_limit_is_an_hour(installed: Installed) -> None:
    with running(installed, soft_limit=3500, hard_limit=3600, lock_ttl=3700) as service:
        job = service.submit("mark", {"label": "victim", "seconds": 5})
        service.told("victim")
        service.workers[0].kill_group()
        killed_at = time.time()
        service.start_worker()
        _, second = service.told("victim", 2, within=LEASE + 10)
        assert second["at"] - killed_at <= LEASE + 6
        assert service.wait(job)["attempts"] == 2


def test_a_job_that_kills_its_process_does_not_take_those_beside_it_with_it(installed: Installed) -> None:
    with running(installed) as service:
        innocent = [service.submit("mark", {"label": f"innocent {number}", "seconds": 6}) for number in range(3)]
        for number in range(3):
            service.told(f"innocent {number}")
        job = service.submit("poison", {"label": "poison"})
        assert service.wait(job, "failed", within=60)["dead_letter"]
        assert service.get(f"/dead-letters/{job}")["reason"] == "poison"
        for other in innocent:
            service.wait(other, within=60)
        assert [letter["id"] for letter in service.dead_letters()] == [job]
        assert len(service.effects(label="poison")) == 3


def test_jobs_that_may_kill_their_process_hold_up_the_others_for_a_lease_at_most(installed: Installed) -> None:
    """A long job that was killed twice beside a poisonous one is as suspect as that; both run on, and so do others."""
    lease = 6
    with running(installed, lease=lease, renewal=2) as service:
        long = service.submit("mark", {"label": "long", "seconds": 60})
        service.told("long")
        poison = service.submit("poison", {"label": "poison"})
        service.told("long", 3, within=30)
        for _ in range(5):
            began = time.monotonic()
            service.wait(service.submit("noop"))
            assert time.monotonic() - began < 2 * lease + 3
        assert service.status(long)["state"] == "running"
        service.wait(long, within=90)
        service.wait(poison, "failed", within=60)
        assert [letter["id"] for letter in service.dead_letters()] == [poison]
