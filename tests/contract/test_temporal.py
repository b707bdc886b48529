"""What only Temporal promises: sagas, approvals, work that waits for days, and histories that stay small and secret.

Collected with `--stack temporal` (conftest.py).
"""

import json
import os
import subprocess
from base64 import b64encode
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from .installed import Installed
from .processes import Process, until, within
from .service import Service, running

STEPS = ["reserve", "charge", "ship"]
SOON = {"lease": 3, "renewal": 1}
PIPES: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}

# Programs that know Temporal, but not the service: its address, then whatever is asked of which workflow.
HISTORY = """
import asyncio, sys
from temporalio.client import Client

async def main(address, workflow):
    history = await (await Client.connect(address)).get_workflow_handle(workflow).fetch_history()
    sys.stdout.buffer.write(b"".join(event.SerializeToString() for event in history.events))
    sys.stdout.flush()
    await asyncio.sleep(0.05)

asyncio.run(main(*sys.argv[1:]))
"""
SIGNAL = """
import asyncio, sys
from temporalio.client import Client

async def main(address, workflow, name):
    await (await Client.connect(address)).get_workflow_handle(workflow).signal(name, {"what": "?"})
    await asyncio.sleep(0.05)

asyncio.run(main(*sys.argv[1:]))
"""
START = """
import asyncio, json, sys
from temporalio.client import Client

async def main(address, queue, name, *arguments):
    client = await Client.connect(address)
    handle = await client.start_workflow(
        name, args=[json.loads(argument) for argument in arguments], id=f"foreign-{name}", task_queue=queue
    )
    print(json.dumps([handle.id, await handle.result()]), flush=True)
    await asyncio.sleep(0.05)

asyncio.run(main(*sys.argv[1:]))
"""
# Ends the next run of a queue's activities as its worker would, with this result or failure; says whose it was.
END_RUN = """
import asyncio, json, sys
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    PollActivityTaskQueueRequest, RespondActivityTaskCompletedRequest, RespondActivityTaskFailedRequest,
)
from temporalio.client import Client

async def main(address, queue, result):
    server = (await Client.connect(address)).workflow_service
    ask = PollActivityTaskQueueRequest(namespace="default", task_queue=TaskQueue(name=queue), identity="another")
    task = await server.poll_activity_task_queue(ask)
    book = json.loads(task.heartbeat_details.payloads[0].data)
    book.update(ended=2, lost=1, runs=[["lost", 0, 0], ["succeeded" if result else "dead", 0, 0]])
    written, kind = json.dumps(book).encode(), {"encoding": b"json/plain"}
    about = {"namespace": "default", "task_token": task.task_token}
    if result:
        payload = Payload(metadata={**kind, "job-book": written}, data=result.encode())
        answer = RespondActivityTaskCompletedRequest(**about, result=Payloads(payloads=[payload]))
        await server.respond_activity_task_completed(answer)
    else:
        details = Payloads(payloads=[Payload(metadata=kind, data=written)])
        why = ApplicationFailureInfo(type="permanent", non_retryable=True, details=details)
        failure = Failure(message="no", application_failure_info=why)
        await server.respond_activity_task_failed(RespondActivityTaskFailedRequest(**about, failure=failure))
    print(task.workflow_execution.workflow_id, end="", flush=True)
    await asyncio.sleep(0.05)

asyncio.run(main(*sys.argv[1:]))
"""
# Describes a job at once, and says its status when a line comes.
STATUS_LATER = """
import asyncio, sys
from {package}.ops.status import describe, status_of
from {package}.runtime.submission import JobId

async def main(job):
    found = await describe(JobId.parse(job))
    print("described", flush=True)
    sys.stdin.readline()
    print((await status_of(found)).model_dump_json(), flush=True)
    await asyncio.sleep(0.05)

asyncio.run(main(*sys.argv[1:]))
"""
ONE_SLOT = """
from dataclasses import replace
from {package}.ops.worker import run_worker
from {package}.queues import QUEUES
QUEUES[:] = [replace(queue, concurrency=1) for queue in QUEUES]
run_worker(["default"])
"""
# Decides these workflows, 20 at a time; prints how many seconds each waited for its worker, and what timed out.
DECIDE_ALL = """
import asyncio, json, sys, time
from temporalio.api.enums.v1 import TimeoutType
from temporalio.client import Client

async def main(address, *workflows):
    client, gate = await Client.connect(address), asyncio.Semaphore(20)

    async def one(workflow):
        handle = client.get_workflow_handle(workflow)
        async with gate:
            began = time.monotonic()
            await handle.execute_update("decide", {"approved": True, "by": "everybody"})
            waited = time.monotonic() - began
        events = (await handle.fetch_history()).events
        missed = [event.workflow_task_timed_out_event_attributes.timeout_type for event in events
                  if event.HasField("workflow_task_timed_out_event_attributes")]
        return [round(waited, 1), [TimeoutType.Name(each) for each in missed]]

    print(json.dumps(await asyncio.gather(*map(one, workflows))), flush=True)
    await asyncio.sleep(0.05)

asyncio.run(main(*sys.argv[1:]))
"""

WHICH_SERVER = """
from pathlib import Path
from {package}.dev.broker import broker_command
print(broker_command(Path("unused"), 1)[0], end="")
"""
# Asks much, and leaves sooner or later than the answers come.
LEAVE = """
import asyncio
from contextlib import suppress
from {package}.ops.engine import engine

async def main():
    for number in range(100):
        with suppress(TimeoutError):
            async with asyncio.timeout(number / 2_000):
                await asyncio.gather(engine().health(), engine().counts())
    await engine().close()

asyncio.run(main())
"""


def ask(service: Service, program: str, *arguments: str) -> bytes:
    """What such a program prints."""
    address = service.environment[service.installed.stack.broker_variable]
    command = [service.installed.python, "-c", program, address, *arguments]
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout


def workflow_of(job: str) -> str:
    """`name:key:run` and `name:key~2` are jobs of the workflow `name:key`."""
    return ":".join(job.partition("~")[0].split(":")[:2])


def refuse(service: Service, path: str, order: str, times: int) -> None:
    """The gateway answers 422."""
    failure = {"status": 422, "times": times, "path": path, "order_id": order}
    service.gateway.post("/control", json={"fail": [failure]}).raise_for_status()


def saga(service: Service, slow: str = "", seconds: float = 0, refused: str = "", times: int = 99) -> tuple[str, str]:
    """The key and the id of a new saga, of which a step takes so long, and one is refused so many times."""
    key = uuid4().hex
    if refused:
        refuse(service, "/charges", f"{key} {refused}", times)
    return key, service.submit("three_steps", {"key": key, "slow": slow, "seconds": seconds})


def happened(service: Service, key: str, what: str) -> list[str]:
    """The steps that were begun, or undone, in their order; one that ran again after a crash is told once."""
    told = [effect["step"] for effect in service.effects(label=f"{key} {what}")]
    return list(dict.fromkeys(told))


def begun(service: Service, key: str, slow: str) -> None:
    """Wait until the step `do charge`, for instance, runs."""
    what, step = slow.split()
    until(lambda: step in happened(service, key, what), 20, lambda: f"{slow}: {service.effects()}")


def balance(service: Service, key: str) -> dict[str, tuple[int, int]]:
    """Of each step: how often the outside world saw it done, and undone."""
    done, undone = (
        [effect["order_id"] for effect in service.gateway.get(path).json()] for path in ("/charges", "/refunds")
    )
    return {step: (done.count(f"{key} {step}"), undone.count(f"{key} {step}")) for step in STEPS}


def memory(process: Process) -> int:
    """Bytes that it and its children hold."""
    pages = 0
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and os.getpgid(int(folder.name)) == process.pid:
                pages += int((folder / "statm").read_text().split()[1])
        except OSError:
            pass  # it has ended
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def module(installed: Installed, name: str) -> Generator[Path, None, None]:
    """A file in jobs/ that is there for one test."""
    path = installed.folder / "src" / installed.package / "jobs" / f"{name}.py"
    try:
        yield path
    finally:
        path.unlink()


@pytest.fixture(scope="module")
def fragile(installed: Installed) -> Iterator[Service]:
    """A service whose parts may be killed."""
    with running(installed, **SOON) as service:
        yield service


@pytest.mark.parametrize("ended_by", ["cancel", "discard"])
@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_parks_the_saga_and_giving_it_up_undoes_the_steps(
    service: Service, step: str, ended_by: str
) -> None:
    key, job = saga(service, refused=step)
    assert service.wait(job, "failed")["dead_letter"]
    letter = service.get(f"/dead-letters/{job}")
    assert (letter["job"], letter["reason"]) == ("three_steps", "permanent")
    assert "refused with 422" in letter["error"]
    assert happened(service, key, "undo") == [], "nothing is undone before a person has decided"
    path = "/jobs" if ended_by == "cancel" else "/dead-letters"
    assert service.http.delete(f"/api/v1{path}/{job}").is_success
    begun_steps = STEPS[: STEPS.index(step) + 1]
    until(lambda: len(happened(service, key, "undo")) == len(begun_steps), 20, lambda: service.effects())
    if ended_by == "cancel":
        until(lambda: service.status(job)["state"] == "cancelled", 20, lambda: service.status(job))
    assert happened(service, key, "do") == begun_steps
    assert happened(service, key, "undo") == begun_steps[::-1]
    wanted = {each: (int(each in begun_steps[:-1]), int(each in begun_steps)) for each in STEPS}
    until(lambda: balance(service, key) == wanted, 5, lambda: balance(service, key))
    assert job not in [letter["id"] for letter in service.dead_letters()]


@pytest.mark.parametrize("step", STEPS)
def test_a_parked_saga_that_is_replayed_goes_on_from_the_failed_step(service: Service, step: str) -> None:
    key, job = saga(service, refused=step, times=1)
    service.wait(job, "failed")
    answer = service.http.post(f"/api/v1/dead-letters/{job}/replay")
    assert answer.status_code == 202
    replay = answer.json()["id"]
    status = service.wait(replay)
    assert (status["replay_of"], service.status(job)["replayed_as"]) == (job, replay)
    assert service.result(replay) == STEPS
    assert balance(service, key) == dict.fromkeys(STEPS, (1, 0))
    told = [effect["step"] for effect in service.effects(label=f"{key} do")]
    assert sorted(told) == sorted([*STEPS, step]), "no step but the failed one ran again"


def test_a_saga_that_is_cancelled_in_any_step_undoes_it_and_those_before(service: Service) -> None:
    started = {step: saga(service, f"do {step}", 30) for step in STEPS}
    for step, (key, job) in started.items():
        begun(service, key, f"do {step}")
        service.http.delete(f"/api/v1/jobs/{job}")
    for step, (key, job) in started.items():
        service.wait(job, "cancelled")
        before = STEPS[: STEPS.index(step)]
        assert happened(service, key, "undo") == [step, *before[::-1]]
        assert balance(service, key) == {each: (int(each in before), int(each in [*before, step])) for each in STEPS}


def test_an_undo_that_fails_is_a_dead_letter_too_and_goes_on_when_replayed(service: Service) -> None:
    key, job = saga(service, refused="ship")
    refuse(service, "/refunds", f"{key} charge", 1)
    service.wait(job, "failed")
    service.http.delete(f"/api/v1/jobs/{job}")
    letter = until(lambda: [each for each in service.dead_letters() if f"{key} charge" in each["error"]], 20)[0]
    assert service.http.post(f"/api/v1/dead-letters/{letter['id']}/replay").status_code == 202
    wanted = {"reserve": (1, 1), "charge": (1, 1), "ship": (0, 1)}
    until(lambda: balance(service, key) == wanted, 20, lambda: balance(service, key))
    assert happened(service, key, "undo") == STEPS[::-1]


@pytest.mark.parametrize("what", ["do", "undo"])
def test_a_worker_killed_in_any_step_of_a_saga_or_of_its_undoing_changes_nothing(fragile: Service, what: str) -> None:
    refused = "ship" if what == "undo" else ""
    started = {step: saga(fragile, f"{what} {step}", 4, refused) for step in STEPS}
    for _, job in started.values():
        if what == "undo":
            fragile.wait(job, "failed")
            fragile.http.delete(f"/api/v1/jobs/{job}")
    for step, (key, _) in started.items():
        begun(fragile, key, f"{what} {step}")
    assert fragile.dead_letters() == [], "what is being undone waits for nobody"
    fragile.workers[0].kill_group()
    fragile.start_worker()
    for key, job in started.values():
        end = "succeeded" if what == "do" else "cancelled"
        until(lambda job=job, end=end: fragile.status(job)["state"] == end, 40, lambda job=job: fragile.status(job))
        assert happened(fragile, key, "do") == STEPS
        assert happened(fragile, key, "undo") == ([] if what == "do" else STEPS[::-1])
        undone = dict.fromkeys(STEPS, (1, 1)) | {"ship": (0, 1)}
        assert balance(fragile, key) == (dict.fromkeys(STEPS, (1, 0)) if what == "do" else undone)


def test_a_killed_server_forgets_no_step_no_timer_and_no_question(fragile: Service) -> None:
    key, job = saga(fragile, "do charge", 3)
    sleeper = fragile.submit("sleeper", {"label": key, "seconds": 4})
    undecided = fragile.submit("consent", {"seconds": 600})
    parked = fragile.submit("permanent", {"label": key})
    begun(fragile, key, "do charge")
    fragile.told(f"{key} begins")
    fragile.wait(parked, "failed")
    fragile.broker.kill_group()
    fragile.start_broker()
    assert fragile.wait(job, within=40)["attempts"] == 1
    assert balance(fragile, key) == dict.fromkeys(STEPS, (1, 0))
    fragile.wait(sleeper)
    assert len(fragile.effects(label=f"{key} begins")) == len(fragile.effects(label=f"{key} ends")) == 1
    ask(fragile, DECIDE_ALL, workflow_of(undecided))
    fragile.wait(undecided)
    assert fragile.http.post(f"/api/v1/dead-letters/{parked}/replay").status_code == 202


def test_six_drains_in_one_step_of_a_saga_spend_no_attempt(installed: Installed) -> None:
    with running(installed, workers=0, drain=1) as service:
        key, job = saga(service, "do charge", 8)
        for number in range(6):
            worker = service.start_worker()
            until(lambda number=number: [*told(service, key)].count("charge") > number, 20)
            assert worker.stop(within=10) == 0
        service.start_worker()
        service.wait(job, within=40)
        assert told(service, key) == ["reserve", *["charge"] * 7, "ship"]
        assert balance(service, key) == dict.fromkeys(STEPS, (1, 0))
        assert service.dead_letters() == []


def told(service: Service, key: str) -> list[str]:
    return [effect["step"] for effect in service.effects(label=f"{key} do")]


def test_a_job_goes_on_from_its_last_heartbeat_when_its_worker_is_killed(fragile: Service) -> None:
    label = uuid4().hex
    job = fragile.submit("counting", {"label": label, "upto": 20})
    fragile.told(label, 10)
    fragile.workers[0].kill_group()
    fragile.start_worker()
    assert fragile.wait(job)["attempts"] == 2
    numbers = [effect["number"] for effect in fragile.effects(label=label)]
    assert sorted(set(numbers)) == list(range(20))
    assert len(numbers) <= 22, "no more is repeated than what the last heartbeat had not told yet"


@pytest.mark.parametrize("result", ['"uploaded"', ""])
def test_a_job_whose_end_its_workflow_has_not_read_yet_still_tells_what_it_did(
    installed: Installed, result: str
) -> None:
    with running(installed, **SOON) as service:
        job = service.submit("steps", {"seconds": 1})
        until(lambda: service.status(job)["progress"]["stage"] == "PROCESSING", 20)
        service.workers[0].kill_group()
        progress = service.status(job)["progress"]
        assert ask(service, END_RUN, "default", result).decode() == workflow_of(job)
        status = service.status(job)
        assert (status["state"], status["attempts"], status["progress"]) == ("running", 2, progress)
        later = [installed.python, "-c", STATUS_LATER.format(package=installed.package), job]
        with subprocess.Popen(later, env=service.environment, text=True, **PIPES) as slow:
            assert slow.stdout
            slow.stdout.readline()
            service.start_worker()
            ended = service.wait(job, "succeeded" if result else "failed")
            told = json.loads(slow.communicate("go on\n", timeout=20)[0])
        assert told == status, "what it was when it was looked at"
        assert (ended["attempts"], ended["progress"]) == (2, progress)
        assert ended["started_at"] == status["started_at"]


def test_a_question_that_nobody_answers_decides_itself(service: Service) -> None:
    job = service.submit("consent", {"seconds": 1})
    service.wait(job)
    assert service.result(job) == "nobody decided"


@pytest.mark.parametrize("size", [500_000, 3_000_000])
def test_a_large_payload_and_result_leave_a_small_history(installed: Installed, size: int) -> None:
    with running(installed, max_body=4_000_000) as service:
        job = service.submit("echo", {"text": "x" * size})
        assert service.wait(job)["result_size"] == size + 2
        assert service.result(job) == "x" * size
        assert len(ask(service, HISTORY, workflow_of(job))) < 10_000


@pytest.mark.parametrize("encrypted", [False, True])
def test_with_a_key_nothing_that_a_job_says_is_kept_in_plain_text(installed: Installed, encrypted: bool) -> None:
    """Without one it is: else this test would look in the wrong places."""
    keys: dict[str, Any] = {"payload_keys": f"new:{b64encode(os.urandom(32)).decode()}"} if encrypted else {}
    secret = f"secret-{uuid4()}"
    texts = [f"{secret} small", f"{secret} large" + "x" * 200_000, f"{secret} fails!"]
    with running(installed, **keys) as service:
        fine, large, broken = (service.submit("echo", {"text": text}) for text in texts)
        for job, text in ((fine, texts[0]), (large, texts[1])):
            service.wait(job)
            assert service.result(job) == text
        assert secret in service.wait(broken, "failed")["error"]
        assert service.get(f"/dead-letters/{broken}")["payload"] == {"text": texts[2]}
        histories = [ask(service, HISTORY, workflow_of(job)) for job in (fine, large, broken)]
        seen = [secret.encode() in history for history in histories]
        assert seen == [not encrypted] * 3  # the large one in its progress, which is cut
        kept = [path for path in service.folder.rglob("*") if path.is_file() and path.parent.name != "logs"]
        in_plain = {path.relative_to(service.folder).parts[0] for path in kept if secret.encode() in path.read_bytes()}
        assert in_plain == (set() if encrypted else {"broker", "var"})


def test_the_code_of_a_workflow_that_fails_is_a_dead_letter_and_goes_on_when_it_is_mended(
    installed: Installed,
) -> None:
    code = """
from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from ..runtime import JobWorkflow, workflow_job
    from .probes import mark


@workflow.defn(name="buggy")
class Buggy(JobWorkflow):
    @workflow.run
    async def run(self, label: str) -> str:
        await self.step(mark, label)
        return {expression}


buggy = workflow_job(Buggy.run, queue="default")
"""
    with module(installed, "buggy") as path:
        path.write_text(code.format(expression="str(1 / 0)"))
        with running(installed) as service:
            job = service.submit("buggy", {"label": "once"})
            service.told("once")
            until(lambda: job in [letter["id"] for letter in service.dead_letters()], 30)
            letter = service.get(f"/dead-letters/{job}")
            assert (letter["job"], letter["reason"]) == ("buggy", "unexpected")
            assert "division by zero" in letter["error"]
            path.write_text(code.format(expression="'mended'"))
            service.workers[0].stop()
            service.start_worker()
            until(lambda: service.status(job)["state"] == "succeeded", 60, lambda: service.status(job))
            assert service.result(job) == "mended"
            assert len(service.effects(label="once")) == 1
            assert service.dead_letters() == []


def test_300_open_workflows_survive_a_restart_without_waiting_and_in_little_memory(installed: Installed) -> None:
    with running(installed) as service:
        with ThreadPoolExecutor(8) as threads:
            jobs = list(threads.map(lambda _: service.submit("consent", {"seconds": 600}), range(300)))
        until(lambda: all(service.status(job)["state"] == "running" for job in jobs[-5:]), 60)
        service.workers[0].stop()
        worker = service.start_worker()
        decided = json.loads(ask(service, DECIDE_ALL, *map(workflow_of, jobs)))
        assert max(waited for waited, _ in decided) < 10
        assert sum(len(missed) for _, missed in decided) <= 3
        assert memory(worker) <= 200 * 1024 * 1024
        for job in jobs:
            service.wait(job)


def test_without_a_cache_every_step_is_a_replay_and_all_comes_out_the_same(installed: Installed) -> None:
    with running(installed, max_cached_workflows=0) as service:
        key, job = saga(service)
        assert service.wait(job)["attempts"] == 1
        assert balance(service, key) == dict.fromkeys(STEPS, (1, 0))
        refuse(service, "/shipments", "uncached", 1)
        parked = service.submit("fulfil_order", {"order_id": "uncached", "amount_cents": 100})
        service.wait(parked, "failed")
        replay = service.http.post(f"/api/v1/dead-letters/{parked}/replay").json()["id"]
        service.wait(replay)
        assert len(service.charges(order_id="uncached")) == 1
        items = [{"sku": str(number), "price_cents": -1 if number == 3 else 1} for number in range(30)]
        catalog = service.submit("import_catalog", {"supplier": "acme", "items": items})
        service.wait(catalog)
        assert (service.result(catalog)["imported"], [*service.result(catalog)["failed"]]) == (29, ["3"])
        one, two = (service.submit("locked", {"label": "lock", "seconds": 0.5}) for _ in range(2))
        service.wait(one)
        service.wait(two)


def test_with_one_slot_urgent_jobs_overtake_those_that_were_queued_before(installed: Installed) -> None:
    with running(installed, workers=0) as service:
        for label, priority in (("bulk", 0), ("urgent", 9)):
            jobs = [
                service.submit("mark", {"label": label, "seconds": 0.05}, priority=priority)
                for _ in range(20 if label == "bulk" else 5)
            ]
        service.start("worker", installed.python, "-c", ONE_SLOT.format(package=installed.package))
        for job in jobs:
            service.wait(job)
        service.told("bulk", 20)
        order = [told["label"] for told in sorted(service.effects(), key=lambda told: told["at"])]
        overtaken = len(order) - 1 - max(place for place, label in enumerate(order) if label == "urgent")
        assert overtaken >= 15, order


def test_a_long_import_goes_on_under_a_new_history_as_the_same_job(service: Service) -> None:
    items = [{"sku": str(number), "price_cents": -1 if number % 100 == 0 else 1} for number in range(510)]
    job = service.submit("import_catalog", {"supplier": "acme", "items": items})
    status = service.wait(job, within=90)
    assert (status["id"], status["attempts"]) == (job, 1)
    assert (status["progress"]["done"], status["progress"]["total"]) == (510, 510)
    result = service.result(job)
    assert (result["imported"], sorted(result["failed"])) == (504, ["0", "100", "200", "300", "400", "500"])
    assert "costs -1 cents" in result["failed"]["100"]


def test_a_lock_lets_one_workflow_at_a_time_through(service: Service) -> None:
    labels = [uuid4().hex for _ in range(3)]
    for job in [service.submit("locked", {"label": label, "seconds": 0.5}) for label in labels]:
        service.wait(job, within=60)
    seen = [effect["label"].split() for effect in service.effects() if effect["label"][:32] in labels]
    assert [what for _, what in seen] == ["in", "out"] * 3
    assert [label for label, _ in seen[::2]] == [label for label, _ in seen[1::2]]


def test_an_unknown_signal_harms_no_workflow(service: Service) -> None:
    label = str(uuid4())
    job = service.submit("sleeper", {"label": label, "seconds": 5})
    service.told(f"{label} begins")
    ask(service, SIGNAL, workflow_of(job), "no_such_signal")
    service.wait(job)
    service.told(f"{label} ends")


def test_a_workflow_that_another_program_starts_is_a_job_like_any_other(service: Service) -> None:
    label = str(uuid4())
    job, result = json.loads(ask(service, START, "default", "mark", json.dumps(label)))
    assert result == label
    status = service.wait(job)
    assert (status["name"], status["queue"], status["attempts"]) == ("mark", "default", 1)
    assert service.result(job) == label


def test_a_plain_function_is_a_job_that_runs_in_a_thread(service: Service) -> None:
    with within(15):
        jobs = [service.submit("threaded", {"label": "t", "seconds": 1}) for _ in range(4)]
        for job in jobs:
            service.wait(job)
            assert service.result(job) == "t threaded"
        service.wait(service.submit("noop"))


def test_a_workflow_that_nobody_works_on_can_still_be_looked_at_and_cancelled(installed: Installed) -> None:
    with running(installed) as service:
        job = service.submit("sleeper", {"label": "alone", "seconds": 60})
        service.told("alone begins")
        until(lambda: service.status(job)["state"] == "scheduled", 10)
        service.workers[0].stop()
        with within(3):
            assert service.status(job)["state"] == "scheduled"
        with within(3):
            assert service.http.delete(f"/api/v1/jobs/{job}").status_code == 202
        service.start_worker()
        service.wait(job, "cancelled")


def test_the_server_of_dev_is_the_chosen_one_or_that_on_path(installed: Installed, tmp_path: Path) -> None:
    for name in ("chosen", "temporal"):
        (tmp_path / name).symlink_to("/bin/true")
    command = [installed.python, "-c", WHICH_SERVER.format(package=installed.package)]
    for found, chosen in (("temporal", {}), ("chosen", {"TEMPORAL_CLI": str(tmp_path / "chosen")})):
        told = subprocess.check_output(command, cwd=tmp_path, env={"PATH": str(tmp_path), **chosen}, text=True)
        assert told == str(tmp_path / found)


def test_without_a_server_dev_says_how_to_get_one(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(service.environment, "TEMPORAL_CLI")
    nowhere: dict[str, Any] = {"path": tmp_path, "xdg_cache_home": tmp_path, "https_proxy": "http://127.0.0.1:1"}
    said = service.cli("dev", code=2, temporal_address="", **nowhere)
    for word in (
        "brew install temporal",
        "https://temporal.io/setup",
        "go install",
        "TEMPORAL_CLI",
        "TEMPORAL_ADDRESS",
    ):
        assert word in said
    missing = str(tmp_path / "none")
    assert f"TEMPORAL_CLI={missing}" in service.cli("dev", code=2, temporal_cli=missing, temporal_address="")


@pytest.mark.parametrize("heard", ["", "frontend.WorkerHeartbeatsEnabled=false"])
def test_a_server_with_defaults_of_its_own_learns_what_it_must_know(installed: Installed, heard: str) -> None:
    """It has none of our search attributes, has four partitions, and may hear no signs of life."""
    with running(installed, workers=0) as service:
        service.broker.kill_group()
        address = ["--ip", "127.0.0.1", "--port", str(service.broker_port)]
        values = ["frontend.ListWorkersEnabled=true", heard] if heard else []
        given = [part for value in values for part in ("--dynamic-config-value", value)]
        server = [service.environment["TEMPORAL_CLI"], "server", "start-dev", "--headless"]
        service.start("broker", *server, *address, *given)
        service.start_worker()
        until(lambda: service.http.get("/health/ready").is_success, 20)
        service.wait_for_workers(1)
        parked = service.submit("permanent", {"label": "parked"})
        service.wait(parked, "failed", within=60)
        until(lambda: [letter["id"] for letter in service.dead_letters()] == [parked], 5, service.dead_letters)
        [worker] = service.health()["workers"]
        assert worker["queues"] == [queue["name"] for queue in service.get("/queues")]
        replay = service.http.post(f"/api/v1/dead-letters/{parked}/replay").json()["id"]
        service.wait(replay, "failed")


def test_who_leaves_before_the_answer_cancels_no_call(installed: Installed) -> None:
    """It would break a dev server's database now and then, for good."""
    with running(installed, workers=0) as service:
        command = [installed.python, "-c", LEAVE.format(package=installed.package)]
        subprocess.run(command, cwd=service.folder, env=service.environment, check=True, timeout=60)
        assert "cancel" not in service.broker.log.read_text()


def test_commands_end_cleanly(service: Service) -> None:
    """The SDK's threads crash now and then a program that ends at once (temporalio/sdk-python#300)."""
    job = service.submit("noop")
    service.wait(job)
    command = [service.installed.script, "status", job]

    def run(_: int) -> int:
        done = subprocess.run(command, cwd=service.folder, env=service.environment, capture_output=True, timeout=60)
        return done.returncode

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(run, range(10))) == {0}
