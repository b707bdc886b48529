"""Messages that somebody purged: their jobs are counted, sent again once, or cancelled so that their keys are free."""

import subprocess

from ..contract.installed import Installed
from ..contract.processes import until
from ..contract.service import Service, running


def purge(service: Service) -> None:
    python, package = service.installed.python, service.installed.package
    purging = service.start("purge", python, "-m", "celery", "-A", package, "purge", "-f")
    assert purging.wait(60) == 0, purging.log.read_text()


def diagnosis(service: Service) -> str:
    """What `doctor` prints; whether RabbitMQ has lost a message shows after some seconds."""
    command = [service.installed.script, "doctor", "--json"]
    return subprocess.run(command, env=service.environment, cwd=service.folder, capture_output=True, text=True).stdout


def submit(service: Service, label: str, **options: object) -> str:
    return service.submit("mark", {"label": label}, key=label, **options)


def test_jobs_without_a_message_are_counted_and_sent_again_and_the_others_are_left_alone(installed: Installed) -> None:
    with running(installed, workers=0, renewal=1, lease=4) as service:
        purged = [submit(service, f"job {n}", priority=n) for n in range(4)]
        purge(service)
        kept = [submit(service, f"kept {n}") for n in range(2)]
        until(lambda: "4 jobs wait by their records" in diagnosis(service), 60)
        assert "default: 4 jobs sent again" in service.cli("queues", "repair", within=30)
        service.start_worker()
        for job in purged + kept:
            assert service.wait(job)["attempts"] == 1
        for label in [*(f"job {n}" for n in range(4)), "kept 0", "kept 1"]:
            assert len(service.effects(label=label)) == 1
        until(lambda: service.queue("default")["depth"] == 0, 10)
        assert "default: 0 jobs" in service.cli("queues", "repair", within=30)
        assert service.cli("doctor", within=30)


def test_a_retry_without_a_message_is_sent_again_as_that_attempt(installed: Installed) -> None:
    with running(installed, renewal=1, lease=4) as service:
        job = service.submit("told_to_wait", {"label": "retried", "seconds": 6})
        service.wait(job, "retrying")
        service.workers[0].kill_group()
        forget_delayed(service)
        assert "default: 1 jobs sent again" in until(lambda: repaired(service), 30)
        service.start_worker()
        assert service.wait(job)["attempts"] == 2
        assert len(service.effects(label="retried")) == 2


def forget_delayed(service: Service) -> None:
    """What waits for its time is in Redis, with RabbitMQ too; the broker loses it."""
    code = "import redis, sys; redis.Redis.from_url(sys.argv[1]).delete(*sys.argv[2:])"
    keys = ["unacked", "unacked_index", "delayed", "delayed:messages", *(f"default:{step}" for step in range(1, 10))]
    command = [service.installed.python, "-c", code, service.environment["REDIS_URL"], "default", *keys]
    subprocess.run(command, check=True)


def repaired(service: Service) -> str:
    """What the command prints once it has found something."""
    said = service.cli("queues", "repair", within=30)
    return said if "1 jobs" in said else ""


def test_jobs_without_a_message_can_be_cancelled_and_their_keys_are_free(installed: Installed) -> None:
    with running(installed, workers=0, renewal=1, lease=4) as service:
        purged = submit(service, "key")
        purge(service)
        assert "default: 1 jobs cancelled" in service.cli("queues", "repair", "default", "--cancel", within=30)
        assert service.status(purged)["state"] == "cancelled"
        again = submit(service, "key")
        service.start_worker()
        service.wait(again)
        assert len(service.effects(label="key")) == 1


def test_a_running_service_names_what_was_purged_and_sends_it_again(installed: Installed) -> None:
    with running(installed, renewal=1, lease=4) as service:
        blockers = [service.submit("mark", {"label": "long", "seconds": 5}) for _ in range(20)]
        service.wait(blockers[0], "running")
        jobs = [submit(service, f"job {n}") for n in range(10)]
        purge(service)
        service.cli("queues", "repair", within=30)
        for job in blockers + jobs:
            service.wait(job, within=120)
        for number in range(10):
            assert len(service.effects(label=f"job {number}")) == 1
        assert len(service.effects(label="long")) == 20
