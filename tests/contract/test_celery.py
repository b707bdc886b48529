"""What only Celery promises."""

import re
import subprocess
from pathlib import Path

from .installed import Installed
from .processes import free_ports, until
from .service import Service, running
from .valkey import ask, start_sentinel

INTERRUPTED = """
from celery.exceptions import SoftTimeLimitExceeded
from PACKAGE.ops.worker import records, redis

def interrupt():
    raise SoftTimeLimitExceeded

steps, connection = records(), redis().connection_pool.make_connection()
steps.connection = connection
print(steps.replay("first", "new 1"))
connection.read_response = interrupt
try:
    steps.replay("second", "new 2")
except SoftTimeLimitExceeded:
    del connection.read_response
print(steps.replay("third", "new 3"))
redis().script_flush()
print(steps.replay("fourth", "new 4"))
connection.send_command("CLIENT", "ID")
redis().client_kill_filter(_id=connection.read_response())
print(steps.replay("fifth", "new 5"))
"""

MASTER = """
from PACKAGE.ops.worker import records, redis

records().connection = redis().connection_pool.make_connection()
print(records().replay("some", "new"), records().connection.port)
"""


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


def printed(service: Service, code: str, **environment: str) -> list[str]:
    """The lines that this code prints in the service's environment."""
    command = [service.installed.python, "-c", code.replace("PACKAGE", service.installed.package)]
    environment = service.environment | environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_step_that_is_interrupted_does_not_leave_its_reply_to_the_next(service: Service) -> None:
    assert printed(service, INTERRUPTED) == ["new 1", "new 3", "new 4", "new 5"]


def test_steps_ask_sentinel_where_the_master_is(service: Service) -> None:
    [port] = free_ports(1)
    url = start_sentinel(service, port, service.broker_port)
    assert printed(service, MASTER, REDIS_URL=url, SENTINEL_MASTER="jobs") == [f"new {service.broker_port}"]


def test_counters_of_earlier_releases_go_on(service: Service) -> None:
    """They counted starts and ends by themselves, and sums in seconds."""

    def told() -> list[float]:
        names = "started_total", "finished_total", "queue_wait_seconds_count", "queue_wait_seconds_sum"
        names += "duration_seconds_count", "duration_seconds_sum"
        return [service.metric(f"jobs_{name}", job="marked_before") for name in names]

    assert told() == [0] * 6
    for field, value in (
        ("started|marked_before|default|", 5),
        ("finished|marked_before|default|succeeded", 3),
        ("finished|marked_before|default|dead", 2),
        ("wait|marked_before|default|1", 5),
        ("wait|marked_before|default|sum", 0.5),
        ("wait|marked_before|default|2", 4),
        ("wait|marked_before|default|us", 500_000),
        ("duration|marked_before|default|1", 5),
        ("duration|marked_before|default|sum", 0.25),
        ("duration|marked_before|default|2|succeeded", 3),
        ("duration|marked_before|default|1|lost", 1),
        ("duration|marked_before|default|us", 1_750_000),
    ):
        ask(service, "HSET", "metrics", field, str(value))
    assert told() == [9, 9, 9, 1.0, 9, 2.0]
