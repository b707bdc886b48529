"""A folder for heartbeats that cannot be written is said at once; one that turns unwritable later costs no lease."""

import shutil
import time
from pathlib import Path

import httpx

from ..contract.installed import Installed
from ..contract.processes import free_ports, until
from ..contract.service import Service, running


def test_worker_and_scheduler_refuse_a_run_dir_that_cannot_be_written(service: Service, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for part in ("worker", "scheduler"):
        said = service.cli(part, code=2, run_dir=tmp_path / "file" / "run")
        assert f"RUN_DIR={tmp_path}/file/run cannot be written (Not a directory)" in said
        assert "Set RUN_DIR to a writable folder" in said


def test_a_run_dir_that_turns_unwritable_hands_no_running_job_to_another_worker(installed: Installed) -> None:
    [port] = free_ports(1)
    with running(installed, workers=0, lease=3, renewal=1) as service:
        folder = service.folder / "run"
        first = service.start_worker("default", run_dir=folder, worker_port=port)
        service.wait_for_workers(1)
        job = service.submit("mark", {"label": "long", "seconds": 10})
        service.told("long")
        until(lambda: list(folder.glob("*.alive")), 10)
        shutil.rmtree(folder)
        folder.write_text("no folder any more")
        began = time.monotonic()
        service.start_worker()
        service.wait_for_workers(2)
        assert service.wait(job)["attempts"] == 1
        assert len(service.effects(label="long")) == 1
        assert time.monotonic() - began > 2 * 3, "it ran for leases on end"
        assert httpx.get(f"http://127.0.0.1:{port}/health/live").status_code == 200
        assert first.log.read_text().count("heartbeat file not written") == 1
