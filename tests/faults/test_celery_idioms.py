"""Celery's own idioms keep the service's promises, or are refused in words (docs/idioms/celery.md)."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from ..contract.installed import Installed
from ..contract.processes import until
from ..contract.service import Service, running
from ..contract.valkey import ask
from .foreign import foreign

PROBES = Path(__file__).parent / "probes" / "alone" / "celery_idioms.py"

BEGIN = """
import uuid
from celery import group
from celery.result import AsyncResult
from PACKAGE.celery import app
app.loader.import_default_modules()
from PACKAGE.jobs.celery_idioms import *
from PACKAGE.jobs.probes import mark
from PACKAGE.jobs.faults import ends, ends_retried
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
    foreign(service, "send_task('mark', kwargs={'label': 'stray'})")
    try:
        assert "queue celery holds 1 messages that no worker reads" in " ".join(service.cli("doctor", code=1).split())
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


NOTES = (  # of record.py
    "due_at", "ended_before", "error", "error_traceback", "outcome", "owner", "reason", "replaced", "result_size",
    "run", "why", "wished",
)  # fmt: skip


@pytest.mark.parametrize(
    ("call", "state", "error"),
    [
        ("mark.apply_async((LABEL,), headers=HEADERS)", "succeeded", ""),
        ("ends.apply_async(('error', LABEL), headers=HEADERS)", "failed", "RuntimeError: simply failed"),
        ("ends_retried.apply_async(('connection_error', LABEL), headers=HEADERS)", "failed", "ConnectionRefusedError"),
        ("mark.apply_async((LABEL,), expires=0.1, countdown=0.5, headers=HEADERS)", "cancelled", "expired"),
    ],
    ids=["succeeds", "fails", "retries", "expires"],
)
@pytest.mark.parametrize("value", ["nightly", 1e30, {"a": [1]}], ids=["text", "number", "object"])
def test_headers_with_the_names_of_our_own_notes_do_no_harm(
    service: Service, call: str, state: str, error: str, value: object
) -> None:
    code = call.replace("LABEL", repr(str(uuid4()))).replace("HEADERS", repr(dict.fromkeys(NOTES, value)))
    status = service.wait(python(service, f"print({code}.id)"), state)
    assert (status["error"] or "").startswith(error)
    assert status["attempts"] == {"ends_retried": 3, "mark": int(state == "succeeded")}.get(call.split(".")[0], 1)
    if state == "failed":
        assert service.get(f"/dead-letters/{status['id']}")["reason"] in ("unexpected", "exhausted")
    assert service.http.get("/console/dead-letters").status_code == 200


def test_a_task_with_a_base_class_without_the_patterns_is_refused_by_a_worker(service: Service) -> None:
    code = """
from celery import Task
class Base(Task): pass
def based(): pass
app.task(base=Base, name='based')(based)
from PACKAGE.ops.worker import run_worker
run_worker()
""".replace("PACKAGE", service.installed.package)
    assert "task based has a base class without the patterns" in python(service, code, fails=True)


def test_what_has_expired_before_a_worker_came_is_cancelled(installed: Installed) -> None:
    with running(installed, workers=0) as alone:
        code = "print(mark.apply_async(('x',), expires=0.5).id, mark.apply_async(('y',), countdown=1, expires=0.5).id)"
        text = f"from {installed.package}.celery import app\napp.loader.import_default_modules()\n"
        text += f"from {installed.package}.jobs.probes import mark\n{code}"
        command = [str(installed.python), "-c", text]
        jobs = subprocess.run(
            command, cwd=alone.folder, env=alone.environment, capture_output=True, text=True, check=True
        )
        submitted = time.time()
        until(lambda: time.time() > submitted + 2, 5, "both have expired")
        alone.start_worker()
        for job in jobs.stdout.split():
            alone.wait(job, "cancelled")
        assert not alone.effects()


@pytest.mark.parametrize("call", ["mark.apply_async(('x',), serializer='pickle')", "promises_broken.delay()"])
def test_a_serializer_that_no_worker_reads_is_refused_at_the_call(service: Service, call: str) -> None:
    assert "no worker reads messages of serializer='pickle'" in python(service, call, fails=True)


UNSENDABLE = {
    "pickled": "mark.si('x').set(serializer='pickle')",
    "unfit": "mark.si(no_such_argument=1)",
    "lost": "mark.si('x').set(queue='no_such')",
}
SHAPES = {
    "chain": "first | bad | last",
    "chord in chain": "first | group(bad, two) | last",
    "fan-in": "chord([first, two], bad) | last",
    "part": "chord([first | bad, two], last)",
}


@pytest.mark.parametrize("kind", UNSENDABLE)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_that_cannot_be_sent_ends_with_all_that_waits_for_it(service: Service, kind: str, shape: str) -> None:
    code = f"""
from celery import chord
steps = {UNSENDABLE[kind]}, mark.si("first"), mark.si("last"), mark.si("two")
bad, first, last, two = [step.set(task_id=str(uuid.uuid4())) for step in steps]
({SHAPES[shape]}).apply_async()
print(bad.options["task_id"], last.options["task_id"])
"""
    for job in python(service, code).split():
        service.wait(job, "failed")
    service.wait(service.submit("noop"))


def test_a_pickled_message_is_a_dead_letter(service: Service) -> None:
    job = str(uuid4())
    foreign(service, f"send_task('mark', ('x',), task_id='{job}', queue='default', serializer='pickle')")
    until(lambda: service.http.get(f"/api/v1/jobs/{job}").status_code != 404, 20, "its worker has it")
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


BEFORE = {
    "error": "failed",
    "exit": "failed",
    "ignore": "cancelled",
    "ignore_bare": "cancelled",
    "reject": "failed",
    "retry": "failed",
}
HOOKS = ("before_start", "on_success", "on_failure", "after_return")


@pytest.mark.parametrize("error", BEFORE)
@pytest.mark.parametrize("hook", HOOKS)
def test_a_job_whose_hook_raises_has_an_end(service: Service, hook: str, error: str) -> None:
    """Before the run it decides as the job itself does, afterwards it changes nothing."""
    job = python(service, f"print(hooked.delay({hook!r}, {error!r}, {str(uuid4())!r}).id)")
    ends = BEFORE[error] if hook == "before_start" else "failed" if hook == "on_failure" else "succeeded"
    service.wait(job, ends)
    service.wait(service.submit("noop"))


WISHES = {
    "replaced by nothing": "AttributeError",
    "replaced by no task": "no job is named 'no_such_task' here",
    "replaced in no queue": "QueueNotFound",
    "again after nan": "cannot convert float NaN",
    "again after ages": "too large to convert",
    "again before now": "MaxRetriesExceededError",
    "again in no queue": "Queue 'no_such_queue' missing",
    "again without end": "MaxRetriesExceededError",
    "state of its own": None,
    "state without sense": "EncodeError",
    "state of another job": "ValueError: body",
}


@pytest.mark.parametrize("wish", WISHES)
def test_a_job_that_asks_celery_for_what_cannot_be_has_an_end(service: Service, wish: str) -> None:
    job = python(service, f"print(odd_wish.delay({wish!r}, {str(uuid4())!r}).id)")
    if (error := WISHES[wish]) is None:
        service.wait(job)
    else:
        service.wait(job, "failed")
        assert error in service.get(f"/dead-letters/{job}")["error"]
    service.wait(service.submit("noop"))


SAID = {
    ("FAILURE", "ignore"): ("failed", "PermanentError: ValueError: said"),
    ("SUCCESS", "ignore"): ("succeeded", None),
    ("REVOKED", "ignore"): ("cancelled", "ignored by the job: "),
    ("RETRY", "ignore"): ("cancelled", "ignored by the job: "),
    ("FAILURE", "error"): ("failed", "ValueError: body"),
    ("SUCCESS", "error"): ("failed", "ValueError: body"),
    ("RETRY", "value"): ("succeeded", None),
    ("FAILURE", "value"): ("succeeded", None),
}


@pytest.mark.parametrize(("state", "ending"), SAID)
def test_an_end_that_a_job_says_by_update_state_takes_effect_with_ignore_alone(
    service: Service, state: str, ending: str
) -> None:
    label = str(uuid4())
    job = python(service, f"print(says_its_end.delay({state!r}, {ending!r}, {label!r}).id)")
    ends, error = SAID[state, ending]
    service.wait(job, ends)
    assert service.status(job)["error"] == error
    if ends == "succeeded":
        assert service.result(job) == (f"said {label}" if ending == "ignore" else label)
    assert len(service.effects(label=label)) == 1


NATIVE = """
import datetime, decimal, uuid
values = [uuid.UUID(int=7), datetime.datetime(2026, 1, 2, 3), decimal.Decimal("1.50"), b"\\xff"]
values.append({"__type__": "uuid", "__value__": "x"})
"""


def test_values_that_json_has_no_word_for_come_as_they_were_also_in_a_replay(service: Service) -> None:
    job = python(service, NATIVE + f"print(native_values.delay(*values, fails_first={str(uuid4())!r}).id)")
    service.wait(job, "failed")
    again = service.http.post(f"/api/v1/dead-letters/{job}/replay").json()["id"]
    service.wait(again)
    expected = python(service, NATIVE + "import json; print(json.dumps([repr(value) for value in values]))")
    assert json.dumps(service.result(again)) == expected


def test_what_looks_like_an_encoded_object_passes_all_of_a_workflow(service: Service) -> None:
    code = """
value = {"__type__": "uuid", "__value__": "x"}
parts = group(passes_on.s(value) | passes_on.s(), passes_on.s([value]))
flow = (parts | passes_on.s()).apply_async(headers={"tenant": value})
print(flow.get(timeout=20) == [value, [value]])
"""
    assert python(service, code) == "True"


@pytest.mark.parametrize("kind", ["uuid", "datetime", "bytes", "decimal", "no kind"])
def test_a_payload_that_looks_like_an_encoded_object_harms_nobody(service: Service, kind: str) -> None:
    """kombu decodes such objects as it reads a message."""
    job, value = str(uuid4()), {"__type__": kind, "__value__": "1.5"}
    foreign(service, f"send_task('mark', ({value},), task_id='{job}', queue='default')")
    until(lambda: service.http.get(f"/api/v1/jobs/{job}").status_code != 404, 20, "its worker has it")
    service.wait(job, "succeeded" if kind == "bytes" else "failed")
    assert service.http.get("/console/dead-letters").status_code == 200
    assert any(letter["id"] == job for letter in service.get("/dead-letters")) == (kind != "bytes")


@pytest.mark.parametrize(
    ("stops", "starts"),
    [
        ("app.control.cancel_consumer('default')", "app.control.add_consumer('default')"),
        ("app.control.pool_shrink(20)", "app.control.pool_grow(4)"),
    ],
    ids=["a queue left", "no process left"],
)
def test_health_says_what_a_worker_was_told_not_to_serve(service: Service, stops: str, starts: str) -> None:
    python(service, stops)
    until(lambda: "queue default has no live worker" in str(service.health()), 30, service.health)
    job = service.submit("noop")
    python(service, starts)
    service.wait(job)
    until(lambda: service.health()["ok"], 30, service.health)


def test_a_job_that_adds_a_part_to_its_chord_and_a_stamped_one_keep_their_promises(service: Service) -> None:
    code = """
from celery import chord
flow = chord([adds.s("a"), passes_on.s("b")], passes_on.s()).apply_async()
stamped = mark.s("stamped", 30)
stamped.stamp(tenant="acme")
print(sorted(flow.get(timeout=20)) == ["a", "a added", "b"], stamped.apply_async().id)
"""
    whole, job = python(service, code).split()
    assert whole == "True"
    service.wait(job, "running")
    python(service, "app.control.revoke_by_stamped_headers({'tenant': 'acme'}, terminate=True)")
    service.wait(job, "cancelled")
