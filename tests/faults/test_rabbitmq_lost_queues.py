"""A node killed seconds after a quorum queue was declared lists it, but serves no consumer: the other queues go on."""

import subprocess
from functools import partial

import pytest

from ..contract.installed import Installed
from ..contract.processes import until
from ..contract.service import Service, running
from .rabbitmq import forget_quorum_queues

DECLARE = "from {package}.broker import declare; declare()"


def says(service: Service, words: str) -> bool:
    return any(words in reason for reason in service.health()["reasons"])


def test_a_queue_without_a_leader_is_named_and_the_others_are_served(installed: Installed) -> None:
    with running(installed, workers=0, repair_after=0) as service:
        kept = [service.submit("mark", {"label": f"kept {n}"}, queue="critical", key=f"kept {n}") for n in range(3)]
        forget_quorum_queues(service)
        worker = service.start_worker()
        service.wait(service.submit("noop"), within=40)
        until(lambda: says(service, "queue critical: RabbitMQ lists it"), 60, service.health)
        assert service.http.get("/health/jobs").status_code == 503
        assert service.metric("jobs_queue_problem", queue="critical") == 1
        assert service.metric("jobs_queue_problem", queue="default") == 0
        assert "queue critical: RabbitMQ lists it" in worker.log.read_text()
        assert "queues repair critical" in service.cli("doctor", code=1, within=30, repair_after=0)
        assert [service.status(job)["state"] for job in kept] == ["queued"] * 3

        assert "critical: 3 jobs sent again" in service.cli("queues", "repair", "critical", within=30)
        for number, job in enumerate(kept):
            service.wait(job, within=40)
            assert len(service.effects(label=f"kept {number}")) == 1
        assert worker.returncode is None
        until(lambda: service.metric("jobs_queue_problem", queue="critical") == 0, 30, service.health)


def test_what_the_node_lost_for_good_is_declared_again_and_its_jobs_are_sent_again(installed: Installed) -> None:
    with running(installed) as service:
        [worker] = service.workers
        held = service.submit("mark", {"label": "held", "seconds": 20}, queue="critical")
        service.wait(held, "running")
        forget_quorum_queues(service)
        service.wait(service.submit("noop"), within=60)
        waiting = until(lambda: _accepted(service), 90)
        for job in (held, waiting):
            service.wait(job, within=60)
        assert len(service.effects(label="held")) == len(service.effects(label="after critical")) == 1
        assert worker.returncode is None


def _accepted(service: Service, queue: str = "critical") -> str:
    """A job for a queue, by default the lost one, once the broker takes it."""
    answer = service.post("mark", {"label": f"after {queue}"}, key=f"after {queue}", queue=queue)
    return answer.json()["id"] if answer.is_success else ""


@pytest.mark.thorough
def test_a_node_killed_at_once_costs_only_seconds(installed: Installed) -> None:
    """As on a fresh machine: whether the node forgets a queue is its own haste."""
    for _ in range(4):
        with running(installed, workers=0) as service:
            code = DECLARE.format(package=installed.package)
            subprocess.run([installed.python, "-c", code], env=service.environment, check=True, cwd=service.folder)
            service.broker.kill_group()
            service.start_broker()
            service.start_worker()
            for queue in ("default", "critical"):
                service.wait(until(partial(_accepted, service, queue), 60), within=60)
