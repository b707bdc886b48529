"""What ends, delays and breaks a worker of ARQ in particular: one event loop, a thread that renews, one connection."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ..contract.installed import Installed
from ..contract.processes import free_ports, until
from ..contract.service import Service, running
from ..contract.valkey import ask

AHEAD = """
import time
really = time.time
time.time = lambda: really() + 3600
"""


@pytest.fixture(scope="module")
def served(installed: Installed) -> Iterator[Service]:
    with running(installed) as service:
        yield service


@pytest.fixture
def untouched(served: Service) -> Iterator[None]:
    """A job beside the test's own ends as if it were alone, in the same process."""
    before = child_of(served.workers[0].pid)
    neighbour = served.submit("mark", {"label": "neighbour", "seconds": 3})
    yield
    assert served.wait(neighbour)["attempts"] == 1
    assert child_of(served.workers[0].pid) == before


def child_of(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()


def lines(service: Service) -> list[dict[str, object]]:
    """What its workers have logged."""
    logs = (service.folder / "logs").glob("*worker*.log")
    return [json.loads(line) for log in logs for line in log.read_text().splitlines() if line.startswith("{")]


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("how", ["task", "task group", "forgotten task", "callback", "thread", "stopped loop"])
def test_sys_exit_aside_of_a_job_ends_at_most_that_job(served: Service, how: str) -> None:
    label = f"exits in a {how}"
    job = served.submit("exits_aside", {"label": label, "how": how})
    if how in ("forgotten task", "callback", "stopped loop"):
        served.wait(job)
    else:
        assert served.wait(job, "failed")["error"].startswith("SystemExit: 3")
    assert len(served.effects(label=label)) == 1


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("what", ["snooze", "transient", "retry after nan"])
def test_any_words_and_numbers_of_a_snooze_or_retry_are_taken(served: Service, what: str) -> None:
    job = served.submit("says", {"label": f"says {what}", "what": what})
    served.wait(job)
    assert served.result(job) == 2


@pytest.mark.usefixtures("untouched")
def test_a_snooze_of_no_time_that_can_come_is_a_dead_letter_with_its_value(served: Service) -> None:
    for what, error in (
        ("no number", "TypeError: "),
        ("not a number", "ValueError: Snooze(nan)"),
        ("endless", "ValueError: Snooze("),
    ):
        job = served.submit("says", {"label": f"says {what}", "what": what})
        assert served.wait(job, "failed")["error"].startswith(error)


@pytest.mark.usefixtures("untouched")
def test_progress_that_cannot_be_stored_is_an_error_of_the_job_or_made_storable(served: Service) -> None:
    served.wait(served.submit("reports", {"label": "half an emoji", "message": None, "done": 3}))
    job = served.submit("reports", {"label": "half done", "message": "x", "done": 1.5})
    assert served.wait(job, "failed")["error"].startswith("ValueError: progress(done=1.5)")
    long = served.submit("reports", {"label": "long", "message": "begins here" + "x" * 500_000})
    assert served.wait(long)["progress"]["message"].startswith("begins herexxx")
    assert len(served.status(long)["progress"]["message"]) < 8192


@pytest.mark.parametrize("how", ["transient", "snooze", "bug"])
def test_a_cancelled_job_is_cancelled_whatever_it_raises_then(served: Service, how: str) -> None:
    job = served.submit("answers_a_cancel", {"label": f"answers {how}", "how": how})
    served.told(f"answers {how}")
    assert served.http.delete(f"/api/v1/jobs/{job}").status_code in (200, 202)
    status = served.wait(job, "cancelled")
    assert not status["dead_letter"]
    assert len(served.effects(label=f"answers {how}")) == 1


def test_a_job_whose_worker_dies_while_it_is_cancelled_does_not_run_again(installed: Installed) -> None:
    with running(installed, lease=3, renewal=1) as service:
        job = service.submit("blocks", {"label": "cancelled", "seconds": 30})  # it cannot hear that it is cancelled
        service.told("cancelled")
        assert service.http.delete(f"/api/v1/jobs/{job}").status_code in (200, 202)
        os.kill(int(child_of(service.workers[0].pid)), signal.SIGKILL)
        service.wait(job, "cancelled", within=30)
        assert len(service.effects(label="cancelled")) == 1


def test_a_drained_job_is_handed_back_whatever_it_raises_then(installed: Installed) -> None:
    with running(installed, drain=1) as service:
        job = service.submit("answers_a_cancel", {"label": "drained", "how": "bug"})
        service.told("drained")
        assert service.workers[0].stop(within=30) == 0
        status = service.status(job)
        assert (status["state"], status["attempts"]) == ("queued", 0)


def test_a_worker_process_that_ends_unasked_is_replaced_and_one_that_cannot_work_ends_with_another_code_than_0(
    installed: Installed,
) -> None:
    with running(installed) as service:
        [worker] = service.workers
        job = service.submit("mark", {"label": "long", "seconds": 4})
        service.told("long")
        os.kill(int(child_of(worker.pid)), signal.SIGTERM)  # not to the supervisor: nobody wants this worker to end
        assert service.wait(job)["attempts"] == 1
        service.wait(service.submit("mark", {"label": "after it"}), within=60)
        assert worker.returncode is None
        broken = service.start_worker(queues_of_nobody=1, worker_port=service.api_port)
        assert broken.wait(within=30) != 0


def test_a_run_dir_that_turns_unwritable_hands_no_running_job_to_another_worker(installed: Installed) -> None:
    [port] = free_ports(1)
    with running(installed, workers=0, lease=3, renewal=1) as service:
        folder = service.folder / "run"
        service.start_worker("default", run_dir=folder, worker_port=port)
        service.wait_for_workers(1)
        job = service.submit("mark", {"label": "long", "seconds": 10})
        service.told("long")
        until(lambda: list(folder.glob("*.alive")), 10)
        shutil.rmtree(folder)
        folder.write_text("no folder any more")
        service.start_worker()
        service.wait_for_workers(2)
        assert service.wait(job)["attempts"] == 1
        assert len(service.effects(label="long")) == 1
        assert httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200


def test_no_descriptors_left_for_longer_than_a_lease_start_no_job_again(installed: Installed) -> None:
    with running(installed, lease=3, renewal=1) as service:
        beside = service.submit("mark", {"label": "beside", "seconds": 8})
        service.told("beside")
        job = service.submit("uses_up_descriptors", {"label": "descriptors", "seconds": 7})
        service.told("descriptors")
        service.start_worker()
        for each in (job, beside):
            assert service.wait(each, within=60)["attempts"] == 1
        assert service.result(job) > 100
        assert [len(service.effects(label=label)) for label in ("descriptors", "beside")] == [1, 1]


def test_an_outage_longer_than_the_lease_starts_no_running_job_again(installed: Installed) -> None:
    with running(installed, workers=3, lease=3, renewal=1) as service:
        jobs = [service.submit("mark", {"label": f"long {number}", "seconds": 14}) for number in range(6)]
        for number in range(6):
            service.told(f"long {number}")
        service.broker.freeze()
        frozen = time.monotonic()
        until(lambda: time.monotonic() - frozen > 6, 7)
        service.broker.thaw()
        for number, job in enumerate(jobs):
            assert service.wait(job, within=60)["attempts"] == 1
            assert len(service.effects(label=f"long {number}")) == 1


def test_the_line_of_a_job_over_its_hard_limit_names_it(installed: Installed) -> None:
    with running(installed) as service:
        jobs = {
            service.submit("overrun", {"label": "deaf", "deaf": True}): "overrun",
            service.submit("blocks_over_its_limit", {"label": "blocks"}): "blocks_over_its_limit",
        }
        for job in jobs:
            service.wait(job, "failed", within=60)
        until(lambda: len(found(service, "job timed_out")) >= 2, 10, lambda: lines(service))
        for line in found(service, "job timed_out"):
            job = str(line["job_id"])
            assert (line["job"], line["attempt"], line["queue"]) == (jobs.pop(job), 1, "default")
            assert line["trace_id"] == service.status(job)["trace_id"]
        assert jobs == {}


def found(service: Service, message: str) -> list[dict[str, object]]:
    return [line for line in lines(service) if line.get("message") == message]


def test_a_worker_whose_clock_is_an_hour_ahead_takes_nothing_and_dies_like_others(
    installed: Installed, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(AHEAD)
    with running(installed, workers=1, lease=3, renewal=1) as service:
        job = service.submit("mark", {"label": "long", "seconds": 6})
        service.told("long")
        ahead = service.start_worker(pythonpath=tmp_path)
        service.wait_for_workers(2)
        later = service.submit("mark", {"label": "later"}, delay=4)
        assert service.wait(job)["attempts"] == 1
        assert len(service.effects(label="long")) == 1
        status = service.wait(later)
        assert 4 <= status["started_at"] - status["submitted_at"] < 12
        assert abs(status["finished_at"] - time.time()) < 60
        ahead.kill_group()
        service.wait_for_workers(1, within=15)
        service.workers[0].stop()
        until(lambda: not service.health()["ok"], 15)


def test_while_redis_refuses_writes_no_job_is_lost_or_run_twice_and_callers_hear_of_it(installed: Installed) -> None:
    """As with too few replicas: reads are answered."""
    with running(installed, lease=3, renewal=1) as service:
        jobs = [
            service.submit("mark", {"label": "ends meanwhile", "seconds": 3}),
            service.submit("locked", {"name": "ends meanwhile", "seconds": 3}),
            service.submit("steps", {"seconds": 0.6}),
        ]
        service.told("ends meanwhile")
        service.told("start ends meanwhile")
        ask(service, "CONFIG", "SET", "min-replicas-to-write", "1")
        try:
            began = time.monotonic()
            assert service.post("noop").status_code == 503
            assert time.monotonic() - began < 3
            health = service.http.get("/health/jobs")
            assert (health.status_code, health.json()["broker"]) == (503, False)
            service.told("end ends meanwhile")
            until(lambda: time.monotonic() - began > 6, 10)
        finally:
            ask(service, "CONFIG", "SET", "min-replicas-to-write", "0")
        for job in jobs:
            assert service.wait(job, within=30)["attempts"] == 1
        assert [len(service.effects(label=label)) for label in ("ends meanwhile", "start ends meanwhile")] == [1, 1]
        until(lambda: service.health()["ok"], 30, service.health)
        service.wait(service.submit("locked", {"name": "ends meanwhile", "seconds": 0}), within=30)


def test_worker_and_scheduler_refuse_a_run_dir_that_cannot_be_written(served: Service, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for part in ("worker", "scheduler"):
        said = served.cli(part, code=2, run_dir=tmp_path / "file" / "run")
        assert f"RUN_DIR={tmp_path}/file/run cannot be written (Not a directory)" in said
