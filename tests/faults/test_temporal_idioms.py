"""What docs/idioms/temporal.md says of each idiom of Temporal's: it keeps the promises here, or is refused in words."""

import json
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest

from ..contract.installed import Installed
from ..contract.processes import until
from ..contract.service import Service

# A client that knows Temporal and nothing of the service: its address, then the code of a coroutine.
PROGRAM = """
import asyncio, json, sys
from datetime import timedelta
from temporalio.client import Client

async def main(address, workflow, *given):
    client = await Client.connect(address)
    handle = client.get_workflow_handle(workflow)
{code}
    await asyncio.sleep(0.05)

asyncio.run(main(*sys.argv[1:]))
"""
REFUSED = {
    "dynamic": (
        "from collections.abc import Sequence\nfrom temporalio.common import RawValue\n@workflow.defn(dynamic=True)\n"
        "class Any:\n    @workflow.run\n    async def run(self, args: Sequence[RawValue]) -> None: ...",
        "workflow Any (",
        "is dynamic",
    ),
    "name of a job": (
        '@workflow.defn(name="noop")\nclass Noop:\n    @workflow.run\n    async def run(self) -> None: ...',
        "workflow Noop (",
        "has the name of the job noop",
    ),
    "activity with the name of a job": (
        '@activity.defn(name="noop")\nasync def another() -> None: ...',
        "activity another (",
        "has the name of the job noop",
    ),
    "method without its object": (
        "class Sender:\n    @activity.defn\n    async def send(self) -> None: ...",
        "activity Sender.send (",
        "ACTIVITIES = [Sender(...).send]",
    ),
}


def ask(service: Service, code: str, workflow: str, *given: str) -> str:
    """What such a client prints."""
    body = "\n".join(f"    {line}" for line in code.splitlines())
    address = service.environment[service.installed.stack.broker_variable]
    command = [service.installed.python, "-c", PROGRAM.format(code=body), address, workflow, *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def tool(service: Service, *arguments: str) -> str:
    """Temporal's own command."""
    address = service.environment[service.installed.stack.broker_variable]
    command = [service.environment["TEMPORAL_CLI"], *arguments, "--address", address, "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def start(service: Service, name: str, *inputs: object, **flags: str) -> str:
    """A workflow of that type, started by Temporal's own command."""
    job = f"{name}-{uuid4().hex}"
    given = [part for each in inputs for part in ("--input", json.dumps(each))]
    more = [part for flag, value in flags.items() for part in (f"--{flag.replace('_', '-')}", value)]
    tool(service, "workflow", "start", "--type", name, "--workflow-id", job, "--task-queue", "default", *given, *more)
    return job


def letter(service: Service, job: str) -> dict[str, object]:
    return until(lambda: [each for each in service.dead_letters() if each["id"] == job], 40)[0]


def idiom(service: Service, what: str) -> tuple[str, str]:
    label = uuid4().hex
    return label, service.submit("idioms", {"label": label, "what": what})


def test_a_plain_workflow_and_its_plain_activities_run(service: Service) -> None:
    job = start(service, "PlainFlow", "x")
    service.wait(job)
    assert service.result(job) == ["plain x", "thread x", "desk: x", "plain local x"]


def test_a_plain_workflow_hears_signals_queries_and_updates(service: Service) -> None:
    job = start(service, "PlainFlow", "waits")
    code = """print(await handle.query("is_approved"), await handle.execute_update("annotate", "noted"))
await handle.signal("approve")"""
    assert ask(service, code, job) == "False 1"
    service.wait(job)
    assert service.result(job)[-1] == "noted"


def test_a_plain_workflow_that_fails_is_a_dead_letter(service: Service) -> None:
    job = start(service, "PlainFlow", "fails")
    assert letter(service, job)["error"] == "a plain failure"
    assert service.http.delete(f"/api/v1/dead-letters/{job}").is_success


def test_a_result_that_is_not_json_is_not_served(service: Service) -> None:
    job = start(service, "PlainFlow", "bytes")
    service.wait(job)
    answer = service.http.get(f"/api/v1/jobs/{job}/result")
    assert answer.status_code == 409
    assert "not JSON" in answer.json()["detail"]


def test_an_activity_that_another_program_completes(service: Service) -> None:
    job = start(service, "PlainAsyncFlow")
    until(lambda: "Started" in tool(service, "workflow", "describe", "--workflow-id", job) or None, 20)
    code = """activity = client.get_async_activity_handle(workflow_id=workflow, run_id=None, activity_id="1")
await activity.complete("from outside")"""
    until(lambda: succeeds(service, code, job), 20)
    service.wait(job)
    assert service.result(job) == "from outside"


def succeeds(service: Service, code: str, job: str) -> bool:
    try:
        ask(service, code, job)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_run_beside_jobs_is_refused_before_a_worker_starts(installed: Installed, case: str) -> None:
    code, *said = REFUSED[case]
    path = installed.folder / "src" / installed.package / "jobs" / "refused.py"
    path.write_text(f"from temporalio import activity, workflow\n\n{code}\n")
    try:
        for command in ("worker", "doctor"):
            done = subprocess.run(
                [installed.script, command],
                cwd=installed.folder,
                env={"PATH": "/usr/bin:/bin", "TEMPORAL_ADDRESS": "127.0.0.1:1", "COLUMNS": "500"},
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode != 0
            assert all(part in done.stdout + done.stderr for part in said), done.stdout + done.stderr
            assert "Traceback" not in done.stderr
    finally:
        path.unlink()


@pytest.mark.parametrize(("how", "runs"), [("retryable", 2), ("benign", 2)])
def test_an_application_error_is_retried_by_the_jobs_policy(service: Service, how: str, runs: int) -> None:
    label = uuid4().hex
    status = service.wait(service.submit("as_temporal_says", {"label": label, "how": how}))
    assert (status["attempts"], len(service.effects(label=label))) == (runs, runs)


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("non-retryable", "Declined: never"),
        ("async completion", "PermanentError: activity.raise_complete_async()"),
        ("heartbeat that is not JSON", "as_temporal_says: object is not JSON"),
        ("heartbeat with NaN", "as_temporal_says: float is not JSON"),
    ],
)
def test_what_a_job_cannot_do_is_a_dead_letter_in_words(service: Service, how: str, error: str) -> None:
    label = uuid4().hex
    job = service.submit("as_temporal_says", {"label": label, "how": how})
    status = service.wait(job, "failed")
    assert error in status["error"]
    assert service.get(f"/dead-letters/{job}")["reason"] == "permanent"
    assert len(service.effects(label=label)) == 1


def test_heartbeat_details_of_a_plain_function_are_there_in_its_next_run(service: Service) -> None:
    job = service.submit("details_in_a_thread", {"label": ""})
    assert service.wait(job)["attempts"] == 3
    assert service.result(job) == 2


def test_a_job_that_waits_for_its_cancel_learns_of_it(service: Service) -> None:
    label = uuid4().hex
    job = service.submit("knows_its_cancel", {"label": label})
    service.told(label)
    service.http.delete(f"/api/v1/jobs/{job}")
    service.wait(job, "cancelled")
    service.told(f"{label} cancelled")


def test_a_shielded_block_of_a_plain_function_is_not_interrupted(service: Service) -> None:
    label = uuid4().hex
    job = service.submit("shields_its_thread", {"label": label})
    service.told(label)
    service.http.delete(f"/api/v1/jobs/{job}")
    service.wait(job, "cancelled")
    service.told(f"{label} whole")


@pytest.mark.parametrize(
    ("what", "result"),
    [
        ("plain_activity", "plain {}"),
        ("job_by_its_name", "retryable"),
        ("local_activity", "plain {}"),
        ("child", "plain {}"),
        ("plain_child", ["plain {}", "thread {}", "desk: {}", "plain local {}"]),
        ("continues", "plain {}"),
    ],
)
def test_temporals_own_calls_in_a_jobs_workflow(service: Service, what: str, result: object) -> None:
    label, job = idiom(service, what)
    service.wait(job)
    assert service.result(job) == json.loads(json.dumps(result).replace("{}", label))


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("job_as_a_local_activity", "mark is a job"),
        ("system_exit", "SystemExit: 3"),
        ("keyboard_interrupt", "KeyboardInterrupt"),
        ("own_base_exception", "Own: on its own"),
        ("generator_exit", "GeneratorExit"),
        ("system_exit_in_a_task", "SystemExit: 3"),
    ],
)
def test_workflow_code_that_raises_is_stuck_in_words_and_harms_nobody(service: Service, what: str, error: str) -> None:
    [worker] = service.workers
    _, job = idiom(service, what)
    assert error in str(letter(service, job)["error"])
    service.wait(service.submit("noop"))
    assert worker.returncode is None
    assert service.http.delete(f"/api/v1/dead-letters/{job}").is_success
    service.wait(job, "cancelled")


@pytest.mark.parametrize("what", ["returns_bytes", "returns_nan"])
def test_a_workflow_whose_result_is_not_json_fails_in_words(service: Service, what: str) -> None:
    _, job = idiom(service, what)
    status = service.wait(job, "failed")
    assert "not JSON" in status["error"]
    assert service.http.delete(f"/api/v1/dead-letters/{job}").is_success


def test_an_input_that_does_not_fit_is_undecodable(service: Service) -> None:
    job = start(service, "fulfil_order", {"order_id": 3})
    found = letter(service, job)
    assert (found["reason"], found["replayable"]) == ("undecodable", False)
    assert "amount_cents" in str(found["error"])
    assert service.status(job)["state"] == "failed"
    assert "cannot be run again" in service.http.post(f"/api/v1/dead-letters/{job}/replay").json()["detail"]
    assert service.http.delete(f"/api/v1/dead-letters/{job}").is_success


def test_terminate_ends_without_undoing(service: Service) -> None:
    label, job = idiom(service, "waits")
    service.told(label)
    tool(service, "workflow", "terminate", "--workflow-id", job, "--reason", "by hand")
    status = service.wait(job, "cancelled")
    assert status["error"] == "by hand"


def test_reset_continues_in_a_new_run(service: Service) -> None:
    label, job = idiom(service, "plain_activity")
    service.wait(job)
    tool(service, "workflow", "reset", "--workflow-id", job, "--type", "FirstWorkflowTask", "--reason", "again")
    until(lambda: service.status(job)["state"] == "succeeded", 20)
    assert service.result(job) == f"plain {label}"


def test_a_workflow_that_the_server_times_out_is_a_dead_letter(service: Service) -> None:
    label = uuid4().hex
    job = start(service, "idioms", label, "waits", run_timeout="2s")
    found = letter(service, job)
    assert found["reason"] == "timed out"
    assert service.http.delete(f"/api/v1/dead-letters/{job}").is_success


def test_a_start_delay_shows_as_scheduled(service: Service) -> None:
    label = uuid4().hex
    job = start(service, "mark", label, start_delay="3s")
    assert service.status(job)["state"] == "scheduled"
    service.wait(job)
    service.told(label)


def test_a_cron_runs_each_time_as_one_job(service: Service) -> None:
    label = uuid4().hex
    job = start(service, "mark", label, cron="@every 1s")
    service.told(label, 3)
    assert service.http.delete(f"/api/v1/jobs/{job}").is_success
    until(lambda: service.status(job)["state"] == "cancelled", 20, lambda: service.status(job))


def test_an_id_policy_of_the_server_holds(service: Service) -> None:
    job = start(service, "mark", "x")
    service.wait(job)
    code = """from temporalio.common import WorkflowIDReusePolicy as Reuse
from temporalio.exceptions import WorkflowAlreadyStartedError
try:
    only_once = Reuse.REJECT_DUPLICATE
    await client.start_workflow("mark", "x", id=workflow, task_queue="default", id_reuse_policy=only_once)
except WorkflowAlreadyStartedError as error:
    print(error)"""
    assert "already started" in ask(service, code, job)


def test_a_schedule_made_by_hand_fires_and_is_left_alone(service: Service) -> None:
    label, name = uuid4().hex, uuid4().hex
    action = ("--type", "mark", "--task-queue", "default", "--workflow-id", name, "--input", json.dumps(label))
    tool(service, "schedule", "create", "--schedule-id", name, "--interval", "1s", *action)
    scheduler = service.start_scheduler()
    service.told(label, 3)
    tool(service, "schedule", "describe", "--schedule-id", name)
    scheduler.kill_group()
    tool(service, "schedule", "delete", "--schedule-id", name)


def test_a_search_attribute_of_ones_own_lists_jobs(service: Service) -> None:
    tool(service, "operator", "search-attribute", "create", "--name", "Customer", "--type", "Keyword")
    label = uuid4().hex

    def begun() -> str | None:
        try:
            return start(service, "mark", label, search_attribute='Customer="acme"')
        except AssertionError:  # the server learns of an attribute within seconds
            return None

    job = until(begun, 30)
    service.wait(job)
    query = "Customer = 'acme'"
    until(lambda: job in tool(service, "workflow", "list", "--query", query), 20)


def test_the_page_has_a_line_for_each_test() -> None:
    page = (Path(__file__).parents[2] / "docs" / "idioms" / "temporal.md").read_text()
    here = Path(__file__).read_text()
    tests = {line.removeprefix("def ").partition("(")[0] for line in here.splitlines() if line.startswith("def test_")}
    missing = [name for name in tests - {"test_the_page_has_a_line_for_each_test"} if name not in page]
    assert not missing, missing
