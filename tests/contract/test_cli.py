"""The commands: what they print for people and for machines, and the exit codes that scripts rely on."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from .installed import Installed
from .processes import Process, until, within
from .service import Service

COMMANDS = (
    "dev",
    "demo",
    "api",
    "worker",
    "scheduler",
    "run",
    "status",
    "result",
    "cancel",
    "queues",
    "schedules",
    "dead-letters",
    "health",
    "doctor",
)

DRAFT = """
import asyncio
import pickle  # pickle runs code
import httpx
from time import sleep

@job(queue="nowhere")  # no worker reads the queue nowhere
def slow(ctx):
    sleep(1)
    ctx.submit(sleep).result()

@job(idempotency_key=lambda order: sleep(order))
async def busy(ctx, order):
    sleep(1)  # time.sleep blocks the event loop
    httpx.get("http://localhost")  # httpx.get blocks
    await asyncio.to_thread(httpx.get, "http://localhost")
    await asyncio.sleep(1)

    def in_a_thread():
        sleep(1)

    first = await ctx["redis"].enqueue_job("slow")
    await first.result()  # job busy waits

@app.post("/")
async def handler():
    slow({})  # runs the job slow itself
"""


@pytest.fixture(scope="module", autouse=True)
def demo(installed: Installed) -> Iterator[Process]:
    """Runs beside the other tests of this module."""
    service = on_its_own(installed)
    try:
        yield service.start("demo", installed.script, "demo")
    finally:
        service.close()


def test_every_command_is_listed_and_explains_itself(service: Service) -> None:
    listed = service.cli("--help")
    for command in COMMANDS:
        assert f" {command} " in listed
    assert "--idempotency" not in service.cli("run", "--help")
    assert "--key" in service.cli("run", "--help")


def test_the_package_can_be_run_as_a_module(service: Service) -> None:
    command = [str(service.installed.python), "-m", service.installed.package, "queues", "--json"]
    printed = subprocess.check_output(command, cwd=service.folder, env=service.environment, timeout=30)
    assert [queue["name"] for queue in json.loads(printed)] == [queue["name"] for queue in service.get("/queues")]


def test_run_submits_from_an_argument_a_file_and_standard_input(service: Service) -> None:
    label = str(uuid4())
    data = json.dumps({"label": label})
    file = service.folder / "payload.json"
    file.write_text(data)
    jobs = [
        service.cli("run", "mark", "--data", data).strip(),
        service.cli("run", "mark", "--data", f"@{file}").strip(),
        service.cli("run", "mark", "--data", "-", stdin=data).strip(),
    ]
    assert len(set(jobs)) == 3
    for job in jobs:
        service.wait(job)
    assert len(service.effects(label=label)) == 3


def test_run_takes_key_delay_queue_and_priority(service: Service) -> None:
    key = str(uuid4())
    options = ["--key", key, "--delay", "60", "--queue", "bulk", "--priority", "8"]
    submitted = service.cli_json("run", "noop", *options)
    assert submitted["created"]
    status = service.cli_json("status", submitted["id"])
    assert (status["state"], status["queue"], status["priority"]) == ("scheduled", "bulk", 8)
    assert status["idempotency_key"] == key
    assert service.cli_json("run", "noop", *options) == {"id": submitted["id"], "created": False}
    assert service.cli_json("cancel", submitted["id"])["state"] == "cancelled"


def test_run_waits_for_the_result_or_gives_up_in_time(service: Service) -> None:
    assert json.loads(service.cli("run", "mark", "--data", '{"label": "waited"}', "--wait")) == "waited"
    slow = json.dumps({"label": "slow", "seconds": 30})
    with within(9):
        service.cli("run", "mark", "--data", slow, "--wait", "--timeout", "1", code=1)
    assert "card expired" in service.cli("run", "permanent", "--data", '{"label": "failed"}', "--wait", code=1)


def test_status_watches_to_the_end(service: Service) -> None:
    job = service.submit("steps", {"seconds": 0.2})
    seen = [json.loads(line) for line in service.cli("status", job, "--watch", "--json").splitlines()]
    assert seen[-1]["state"] == "succeeded"
    assert "UPLOADING" in [status["progress"]["stage"] for status in seen]
    failing = service.submit("permanent", {"label": "watched"})
    assert "failed" in service.cli("status", failing, "--watch", code=1)


def test_operating_commands_print_tables_and_json(service: Service) -> None:
    job = service.submit("permanent", {"label": "cli"})
    service.wait(job, "failed")
    for command, shown in (
        (["queues"], "default"),
        (["schedules"], "send_digest"),
        (["dead-letters", "list"], job),
        (["dead-letters", "show", job], "card expired"),
        (["health"], "default"),
        (["status", job], "permanent"),
    ):
        assert shown in service.cli(*command)
        assert shown in json.dumps(service.cli_json(*command))
    service.cli("dead-letters", "discard", job)
    assert job not in service.cli("dead-letters", "list")


def test_doctor_finds_nothing_wrong_with_a_new_service(service: Service) -> None:
    assert service.cli_json("doctor") == []


def test_doctor_names_line_by_line_what_would_go_wrong(service: Service) -> None:
    draft = service.installed.folder / "src" / service.installed.package / "draft.py"
    draft.write_text(DRAFT)
    try:
        found = service.cli_json("doctor", code=1)
    finally:
        draft.unlink()
    told = {int(one["where"].rpartition(":")[2]): one["problem"] for one in found}
    marked = {n: line.partition("# ")[2] for n, line in enumerate(DRAFT.splitlines(), 1) if "# " in line}
    assert told.keys() == marked.keys(), told
    assert all(marked[number] in told[number] for number in marked), told
    assert all(one["mend"] for one in found)


def test_doctor_answers_although_an_update_left_a_conflict_in_a_module_that_it_needs(service: Service) -> None:
    queues = service.installed.folder / "src" / service.installed.package / "queues.py"
    text = queues.read_text()
    queues.write_text(f"<<<<<<< before updating\n{text}=======\n{text}>>>>>>> after updating\n")
    try:
        [found] = service.cli_json("doctor", code=1)
    finally:
        queues.write_text(text)
    assert found["where"].endswith("/queues.py:1")
    assert found["problem"] == "an update left a conflict"


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["run", "no_such_job"],
        ["run", "mark", "--data", "{"],
        ["run", "mark", "--data", '{"label": 1}'],
        ["run", "mark", "--data", "@no-such-file.json"],
        ["run", "noop", "--queue", "express"],
        ["run", "noop", "--priority", "10"],
        ["dead-letters", "replay"],
        ["dead-letters", "discard", "some-id", "--all"],
    ],
    ids=" ".join,
)
def test_bad_usage_and_bad_input_end_with_2(service: Service, arguments: list[str]) -> None:
    assert service.cli(*arguments, code=2).strip()


def test_the_same_key_with_another_payload_ends_with_2(service: Service) -> None:
    key = str(uuid4())
    service.cli("run", "mark", "--data", '{"label": "a"}', "--key", key)
    assert key in service.cli("run", "mark", "--data", '{"label": "b"}', "--key", key, code=2)


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "no-such-id"],
        ["dead-letters", "replay", "no-such-id"],
        ["dead-letters", "discard", "no-such-id"],
    ],
    ids=" ".join,
)
def test_an_id_that_does_not_exist_ends_with_2(service: Service, arguments: list[str]) -> None:
    assert "no-such-id" in service.cli(*arguments, code=2)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "noop"],
        ["status", "some-id"],
        ["queues"],
        ["dead-letters", "list"],
        ["health"],
    ],
    ids=" ".join,
)
def test_an_absent_broker_ends_with_3_in_time(service: Service, arguments: list[str]) -> None:
    nowhere: dict[str, Any] = service.installed.stack.environment(9)  # the discard port
    with within(6):  # three seconds, and those that Python takes to start on a busy machine
        assert service.cli(*arguments, code=3, **nowhere).strip()


def test_dev_starts_everything_starts_again_what_ended_and_ends_with_ctrl_c(installed: Installed) -> None:
    service = on_its_own(installed)
    try:
        began = time.monotonic()
        dev = service.start("dev", installed.script, "dev")
        until(lambda: healthy(service) or dev.returncode is not None, 90, dev.log.read_text)
        assert dev.returncode is None, dev.log.read_text()
        assert str(service.api_port) in dev.log.read_text()
        order = str(uuid4())
        service.wait(service.submit("process_order", {"order_id": order, "amount_cents": 100}))
        until(lambda: time.monotonic() - began > 25, 30)  # a part that ends right after its start is not started again
        workers = parts(dev, "worker")
        for worker in workers:
            os.killpg(worker, signal.SIGKILL)
        until(lambda: len(parts(dev, "worker")) == len(workers), 20, dev.log.read_text)
        service.wait(service.submit("process_order", {"order_id": str(uuid4()), "amount_cents": 100}))
        dev.send(signal.SIGINT)
        assert dev.wait(20) == 0
        assert not leftovers(service.folder), "nothing it started is left"
    finally:
        service.close()


def test_demo_shows_every_pattern_and_all_goes_as_told(demo: Process) -> None:
    assert demo.wait(60) == 0, demo.log.read_text()
    assert "dead letter" in demo.log.read_text()


def parts(dev: Process, command: str) -> list[int]:
    """The processes that `dev` runs of this command."""
    children = [int(pid) for pid in Path(f"/proc/{dev.pid}/task/{dev.pid}/children").read_text().split()]
    return [pid for pid in children if command in Path(f"/proc/{pid}/cmdline").read_text().split("\0")]


def on_its_own(installed: Installed) -> Service:
    """Without anything started and without addresses of a broker or a gateway: `dev` and `demo` bring theirs."""
    service = Service(installed)
    for variable in (installed.stack.broker_variable, "PAYMENT_GATEWAY_URL"):
        del service.environment[variable]
    return service


def healthy(service: Service) -> bool:
    try:
        return service.http.get("/health/jobs").status_code == 200
    except httpx.TransportError:
        return False


def leftovers(folder: Path) -> list[str]:
    """The processes that work in this folder (Linux)."""
    return [str(path) for path in Path("/proc").glob("[0-9]*/cwd") if path.resolve() == folder]
