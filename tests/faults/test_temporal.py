"""What only Temporal's stack can lose: threads that never end, payloads under a lost key, a server that is away."""

import json
import os
import subprocess
import time
from base64 import b64encode
from uuid import uuid4

import pytest

from ..contract.installed import Installed
from ..contract.processes import until, within
from ..contract.service import FINAL, Service, running


def key(name: str) -> str:
    return f"{name}:{b64encode(os.urandom(32)).decode()}"


def test_functions_that_never_end_hold_up_no_other_and_too_many_replace_the_worker(installed: Installed) -> None:
    with running(installed) as service:
        [worker] = service.workers
        stuck = [service.submit("never_ends", {"label": "stuck"}, queue="default") for _ in range(60)]
        beside = [service.submit("threaded", {"label": "beside", "seconds": 0}) for _ in range(5)]
        for job in beside:
            assert service.wait(job, within=60)["attempts"] == 1
        for job in stuck:
            status = service.wait(job, "failed", within=90)
            assert status["attempts"] == 1
            assert "ran longer than 2 s" in status["error"]
        log = worker.log.read_text()
        until(lambda: "another worker starts" in worker.log.read_text(), 60, lambda: log)
        for _ in range(3):
            service.wait(service.submit("threaded", {"label": "after", "seconds": 0}), within=60)
        assert worker.returncode is None


def test_a_job_whose_task_ends_the_event_loop_harms_nobody(service: Service) -> None:
    [worker] = service.workers
    beside = service.submit("mark", {"label": "beside", "seconds": 3})
    service.told("beside")
    for how in ("task", "callback", "stop"):
        job = service.submit("ends_the_loop", {"how": how})
        status = service.wait(job, "failed" if how == "task" else "succeeded")
        assert status["attempts"] == 1
    assert service.wait(beside)["attempts"] == 1
    assert [each.pid for each in service.workers] == [worker.pid]


def test_what_is_encrypted_with_a_lost_key_is_a_row_with_that_sentence(installed: Installed) -> None:
    old, new = key("old"), key("new")
    with running(installed, payload_keys=f"{old},{new}") as service:
        label, business_key = uuid4().hex, uuid4().hex
        dead = service.submit("permanent", {"label": label})
        done = service.submit("mark", {"label": label}, key=business_key)
        waits = service.submit("consent", {"seconds": 600})
        service.wait(dead, "failed")
        service.wait(done)
        until(lambda: service.get("/approvals"), 20)
        service.api.stop()
        service.environment["PAYLOAD_KEYS"] = new
        service.start_api()

        [letter] = until(service.dead_letters, 20)
        sentence = "a payload is encrypted with the key 'old'"
        assert letter["id"] == dead
        assert sentence in letter["error"]
        assert not letter["replayable"]
        assert sentence in service.status(dead)["error"]
        assert service.status(dead)["state"] == "failed"
        assert sentence in service.get("/approvals")[0]["waiting_for"]
        assert service.status(waits)["state"] == "running"
        assert service.http.get("/metrics").status_code == 200
        assert service.http.get("/health/jobs").status_code == 200
        for page in ("/console", "/console/dead-letters", f"/console/jobs/{dead}"):
            assert service.http.get(page).status_code in (200, 404), page
        for answer in (
            service.http.get(f"/api/v1/jobs/{done.partition(':~')[0]}/result"),
            service.post("mark", {"label": label}, key=business_key),
        ):
            assert answer.status_code == 503, answer.text
            assert sentence in answer.json()["detail"]
        answer = service.http.post(f"/api/v1/dead-letters/{dead}/replay")
        assert answer.status_code == 409
        assert sentence in answer.json()["detail"]
        assert sentence in service.cli("status", dead, "--json")
        assert sentence in service.cli("dead-letters", "list", "--json")
        assert sentence in service.cli("result", done, code=3)
        assert service.http.delete(f"/api/v1/dead-letters/{dead}").is_success


def test_a_worker_that_cannot_write_its_folder_says_so(service: Service) -> None:
    file = service.folder / "a-file"
    file.touch()
    worker = service.start_worker(run_dir=file)
    until(lambda: worker.returncode is not None, 60)
    assert worker.returncode == 2
    assert "RUN_DIR=" in worker.log.read_text()
    assert "Traceback" not in worker.log.read_text()


def test_a_singletons_lock_ends_as_completed(service: Service) -> None:
    service.wait(service.submit("exclusive", {"label": uuid4().hex, "seconds": 0}))
    address = service.environment[service.installed.stack.broker_variable]
    command = [service.environment["TEMPORAL_CLI"], "workflow", "list", "--address", address, "--output", "json"]
    query = ["--query", "WorkflowType = 'lock'"]

    def locks() -> list[str]:
        listed = json.loads(subprocess.run([*command, *query], capture_output=True, text=True, check=True).stdout)
        return [each["status"].removeprefix("WORKFLOW_EXECUTION_STATUS_") for each in listed]

    until(lambda: locks() and "RUNNING" not in locks(), 20, locks)
    assert set(locks()) == {"COMPLETED"}


@pytest.mark.parametrize("kind", ["stopped", "frozen"])
def test_a_server_that_is_away_under_load_loses_and_doubles_nothing(installed: Installed, kind: str) -> None:
    with running(installed) as service:
        jobs: dict[str, str] = {}

        def submit(seconds: float, count: int) -> None:
            for _ in range(count):
                name = f"load-{len(jobs)}"
                answer = service.post("effect", {"key": name, "seconds": seconds}, key=name)
                if answer.status_code in (200, 202):
                    jobs[name] = answer.json()["id"]
                else:
                    assert answer.status_code == 503, answer.text

        submit(0.2, 20)
        submit(12, 3)  # which run over the outage
        if kind == "stopped":
            service.broker.kill_group()
        else:
            service.broker.freeze()
        with within(10):
            assert service.post("effect", {"key": "refused"}, key="refused").status_code == 503
            assert service.http.get("/health/jobs").status_code == 503
            assert service.http.get("/health/live").status_code == 200
        away = time.monotonic()
        until(lambda: time.monotonic() - away > 60, 61)
        if kind == "stopped":
            service.start_broker()
        else:
            service.broker.thaw()
        until(lambda: service.post("noop").status_code == 202, 60)
        submit(0.2, 10)
        for job in jobs.values():
            until(lambda job=job: service.status(job)["state"] in FINAL, 120, lambda job=job: service.status(job))
            assert service.status(job)["state"] == "succeeded"
        charged = [charge["order_id"] for charge in service.charges()]
        assert sorted(set(charged) - {"refused"}) == sorted(jobs)
        assert len(charged) == len(set(charged))
        [worker] = service.workers
        lines = worker.log.read_text().splitlines()
        assert all(line.startswith("{") for line in lines), "only the service's own logging writes"
        assert sum("temporalio.core" in line for line in lines) < 30
