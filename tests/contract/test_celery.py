"""What only Celery promises."""

from .installed import Installed
from .processes import until
from .service import running


def test_a_process_that_held_too_much_memory_is_replaced_and_no_job_is_lost(installed: Installed) -> None:
    with running(installed, worker_max_memory_per_child=1) as service:  # KiB: each job is one too many
        for job in [service.submit("noop") for _ in range(6)]:
            assert service.wait(job)["attempts"] == 1
        assert service.metric("jobs_started_total", job="noop") == 6
        assert service.metric("jobs_finished_total", job="noop", outcome="succeeded") == 6
        [log] = (service.folder / "logs").glob("*worker*.log")
        until(lambda: log.read_text().count("exceeding memory limit") == 6, 10)
