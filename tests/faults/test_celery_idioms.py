"""Celery's own idioms keep the service's promises, or are refused in words (docs/idioms/celery.md)."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from ..contract.installed import Installed
from ..contract.processes import until
from ..contract.service import Service, running
from ..contract.valkey import ask

PROBES = Path(__file__).parent / "probes" / "alone" / "celery_idioms.py"

BEGIN = """
from celery import group
from celery.result import AsyncResult
from PACKAGE.celery import app
app.loader.import_default_modules()
from PACKAGE.jobs.celery_idioms import *
from PACKAGE.jobs.probes import mark
from PACKAGE.jobs.faults import ends
"""
REFUSED = {
    "async def job(): pass": "is a coroutine function",
    "async def job(): yield 1": "is a generator",
    "def job(): yield 1": "is a generator",
    "job = lambda: 1": "no function with a name",
    "import functools; job = functools.partial(print, 1)": "no function with a name",
    "class job: pass": "no function with a name",
}


@pytest.fixture(scope="module")
def service(installed: Installed) -> Iterator[Service]:
    """With jobs that break promises, which `doctor` finds: in no other test's service."""
    probes = Path(shutil.copy(PROBES, installed.folder / "src" / installed.package / "jobs"))
    try:
        with running(installed) as started:
            yield started
    finally:
        probes.unlink()


def python(service: Service, code: str, *, fails: bool = False) -> str:
    """What this code prints in the service's environment; where it `fails`, its last line."""
    text = BEGIN.replace("PACKAGE", service.installed.package) + code
    command = [str(service.installed.python), "-c", text]
    done = subprocess.run(
        command, env=service.environment, cwd=service.folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr.strip().splitlines()[-1] if fails else done.stdout.strip()


@pytest.mark.parametrize("written", REFUSED)
def test_what_no_pool_process_could_run_is_refused_at_import(service: Service, written: str) -> None:
    code = f"{written}\nfrom {service.installed.package}.runtime import job as declare\ndeclare(retry=None)(job)"
    said = python(service, code, fails=True)
    assert "JobDeclarationError: job " in said
    assert REFUSED[written] in said


def test_send_task_without_a_queue_goes_to_the_jobs_own(service: Service) -> None:
    job = python(service, f"print(app.send_task('mark', kwargs={{'label': '{uuid4()}'}}).id)")
    assert service.wait(job)["queue"] == "default"


def test_a_job_of_a_foreign_app_that_no_worker_reads_is_found(service: Service) -> None:
    url = service.environment["REDIS_URL"]
    code = f"from celery import Celery; Celery(broker='{url}').send_task('mark', kwargs={{'label': 'stray'}})"
    subprocess.run([str(service.installed.python), "-c", code], cwd=service.folder, check=True)
    try:
        found = f"from {service.installed.package}.ops.worker import check; print(list(check()))"
        assert "('Redis list celery', 'holds 1 jobs that no worker reads'" in python(service, found)
    finally:
        ask(service, "DEL", "celery")


def test_an_unknown_queue_is_refused_at_the_call(service: Service) -> None:
    assert "QueueNotFound" in python(service, "mark.apply_async(('x',), queue='nowhere')", fails=True)


def test_async_result_knows_state_value_and_error(service: Service) -> None:
    label = str(uuid4())
    told = python(
        service, f"r = mark.delay('{label}'); print(r.get(timeout=20), r.state, AsyncResult(r.id, app=app).result)"
    )
    assert told == f"{label} SUCCESS {label}"
    code = "r = ends.delay('error', 'x'); print(repr(r.get(timeout=20, propagate=False)), r.state)"
    assert python(service, code) == "RuntimeError('simply failed') FAILURE"


def test_ignore_result_leaves_out_the_result_not_the_end(service: Service) -> None:
    job = python(service, f"print(mark.apply_async(('{uuid4()}',), ignore_result=True).id)")
    service.wait(job)
    assert service.result(job) is None


def test_retry_and_autoretry_run_again_and_end_as_dead_letters(service: Service) -> None:
    label = str(uuid4())
    for name in ("retries_itself", "retried_by_celery"):
        job = python(service, f"print({name}.delay('{label}-{name}').id)")
        service.wait(job, "failed")
        assert len(service.effects(label=f"{label}-{name}")) == 3
        assert service.status(job)["dead_letter"]


def test_a_limit_given_at_the_call_ends_the_job(service: Service) -> None:
    job = python(service, f"print(mark.apply_async(('{uuid4()}', 60), time_limit=2).id)")
    service.wait(job, "failed", within=15)
    assert service.get(f"/dead-letters/{job}")["reason"] == "timed out"
    assert service.status(job)["attempts"] == 1


def test_times_headers_and_names_for_people_do_no_harm(service: Service) -> None:
    for options in ("countdown=-5", "shadow='seen as'", "headers={'tenant': 'a'}", "priority=9"):
        service.wait(python(service, f"print(mark.apply_async(('{uuid4()}',), {options}).id)"))


def test_a_pickled_message_is_a_dead_letter(service: Service) -> None:
    job = python(service, "print(mark.apply_async(('x',), serializer='pickle').id)")
    service.wait(job, "failed")
    assert service.get(f"/dead-letters/{job}")["reason"] == "undecodable"


def test_chunks_starmap_and_skew_run_each_job(service: Service) -> None:
    label = str(uuid4())
    python(service, f"mark.chunks([('{label}', 0)] * 4, 2).apply_async(); mark.starmap([('{label}', 0)] * 2).delay()")
    python(service, f"group(mark.si('{label}') for _ in range(2)).skew(start=0, stop=1).apply_async()")
    until(lambda: len(service.effects(label=label)) == 8, 20, lambda: service.effects(label=label))


def test_doctor_finds_options_that_break_a_promise(service: Service) -> None:
    said = service.cli("doctor", code=1)
    for option in ("acks_late=False", "rate_limit='1/s'", "serializer='pickle'"):
        assert option in said


@pytest.mark.parametrize("pool", ["threads"])
def test_a_pool_whose_limits_do_not_act_is_refused(service: Service, pool: str) -> None:
    command = [str(service.installed.python), "-m", "celery", "-A", service.installed.package, "worker", "-P", pool]
    done = subprocess.run(
        command, env=service.environment, cwd=service.folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode != 0
    assert "cannot stop a job at its limit" in done.stderr
