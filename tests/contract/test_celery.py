"""What only Celery promises."""

import re
from pathlib import Path

from .installed import Installed
from .processes import until
from .service import Service, running


def test_a_process_that_held_too_much_memory_is_replaced_and_no_job_is_lost(installed: Installed) -> None:
    with running(installed, worker_max_memory_per_child=1) as service:  # KiB: each job is one too many
        for job in [service.submit("noop") for _ in range(6)]:
            assert service.wait(job)["attempts"] == 1
        assert service.metric("jobs_started_total", job="noop") == 6
        assert service.metric("jobs_finished_total", job="noop", outcome="succeeded") == 6
        [log] = (service.folder / "logs").glob("*worker*.log")
        until(lambda: log.read_text().count("exceeding memory limit") == 6, 10)


def test_processes_of_the_pool_share_the_memory_of_what_was_loaded_before_them(service: Service) -> None:
    service.wait(service.submit("noop"))
    main = service.workers[0].pid
    pool = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    assert pool
    for process in pool:
        used = dict(re.findall(r"(\w+): +(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text()))
        assert int(used["Private_Dirty"]) < int(used["Rss"]) / 3
