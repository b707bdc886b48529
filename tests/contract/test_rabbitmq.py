"""What only Celery on RabbitMQ promises: the broker's own limit, queues of the declared kind, confirmed messages."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from .installed import Installed
from .processes import until
from .service import Service, running

ASK = """
import sys
import amqp
with amqp.Connection(f"127.0.0.1:{sys.argv[1]}") as connection:
    channel = connection.channel()
    """

DOCKER = """#!{python}
# Answers as Docker with Compose does; its container is a node beside us, which outlives who asks for it.
import os, signal, subprocess, sys
from contextlib import suppress
from pathlib import Path
from {package}.dev.node import own

running = Path(__file__).with_name("running")
match sys.argv[1:]:
    case ["compose", "version"] | ["info", *_]:
        print("[name=seccomp,profile=builtin]")
    case ["compose", "--file", _, "--project-name", name, "up", *_]:
        commands, environment = own(Path(os.environ["DEV_FOLDER"]), int(os.environ["DEV_PORT"]), "{server}")
        children = [subprocess.Popen(command, env=environment, start_new_session=True) for command in commands]
        running.write_text(" ".join([name, *(str(child.pid) for child in children)]))
        signal.signal(signal.SIGTERM, lambda *_: children[-1].terminate())
        children[-1].wait()
    case ["compose", "--file", _, "--project-name", name, "down", "--timeout", "0"]:
        began, *children = running.read_text().split()
        assert began == name
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        running.unlink()
"""
WHICH_SERVER = """
from {package}.dev import broker
broker.PROGRAMS = ()
try:
    print(broker._program(), end="")
except broker.EmbeddedUnavailable as error:
    print(error)
"""
USE_IT = """
import sys
from pathlib import Path
import amqp
from {package}.dev.embedded import EmbeddedBroker

broker = EmbeddedBroker(Path(sys.argv[1]))

def ask(send):
    with amqp.Connection(f"127.0.0.1:{{broker.port}}", confirm_publish=True) as connection:
        channel = connection.channel()
        channel.queue_declare("kept", durable=True, auto_delete=False)
        if send:
            channel.basic_publish(amqp.Message("hello", delivery_mode=2), routing_key="kept")
        return channel.queue_declare("kept", passive=True).message_count

broker.start()
ask(send=True)
broker.kill()
broker.start()
print(ask(send=False))
broker.stop()
"""


@pytest.fixture(scope="module")
def own(installed: Installed) -> Iterator[Service]:
    """One that no test changes."""
    with running(installed) as service:
        yield service


def asked(service: Service, code: str) -> str:
    """What this line prints, with an AMQP `channel` to the node."""
    command = [str(service.installed.python), "-c", ASK + code, str(service.broker_port)]
    return subprocess.check_output(command, text=True).strip()


def node_of(service: Service) -> int:
    """The process of RabbitMQ alone, without the Valkey beside it."""
    home = f"HOME={service.folder}/broker\0".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (folder / "comm").read_text() == "beam.smp\n" and home in (folder / "environ").read_bytes():
                return int(folder.name)
    raise AssertionError("no node")


def test_the_brokers_own_limit_makes_a_dead_letter_that_can_be_replayed(installed: Installed) -> None:
    with running(installed, max_deliveries=50, delivery_limit=2) as service:
        job = service.submit("poison", {"label": "stopped"}, queue="critical", priority=7)
        service.wait(job, "failed")
        letter = service.get(f"/dead-letters/{job}")
        assert (letter["reason"], letter["queue"]) == ("poison", "critical")
        assert "stopped by the broker" in letter["error"]
        assert "DELIVERY_LIMIT" in letter["error"]
        assert letter["payload"] == {"label": "stopped"}
        assert len(service.effects(label="stopped")) == 3
        replay = service.http.post(f"/api/v1/dead-letters/{job}/replay").raise_for_status().json()["id"]
        assert service.wait(replay, "failed")["priority"] == 7
        assert len(service.effects(label="stopped")) == 6
        until(lambda: service.queue("critical")["depth"] == 0, 5)


def test_a_queue_with_other_arguments_is_told_with_both_values_and_the_way_out(installed: Installed) -> None:
    with running(installed, workers=0) as service:
        asked(service, "channel.queue_declare('bulk', durable=True, auto_delete=False)")
        answer = service.post("noop", queue="bulk")
        assert answer.status_code == 503
        said = {
            "caller": answer.json()["detail"],
            "command": service.cli("run", "noop", "--queue", "bulk", code=3),
            "worker": service.cli("worker", code=3),
            "doctor": service.cli("doctor", "--json", code=1),
        }
        for who, text in said.items():
            assert all(part in text for part in ("queue bulk", "x-max-priority", "'9'", "none", "delete_queue")), who
        assert service.queue("bulk")["depth"] == 0, "nothing half-done"
        service.wait_for_workers(0)

        asked(service, "channel.queue_delete('bulk')")
        service.start_worker()
        service.wait(service.submit("noop", queue="bulk"))
        assert service.cli("doctor", code=0)


def test_a_changed_delivery_limit_is_drift_too(own: Service) -> None:
    said = own.cli("doctor", code=1, delivery_limit=21)
    assert "x-delivery-limit" in said
    assert "'21'" in said
    assert "'20'" in said


def test_a_message_whose_queue_was_deleted_is_not_lost(installed: Installed) -> None:
    """The API has declared the queue once and would not look again; the broker confirms what it drops."""
    with running(installed, workers=0) as service:
        service.submit("noop", queue="bulk")
        asked(service, "channel.queue_delete('bulk')")
        job = service.submit("noop", queue="bulk")
        assert asked(service, "print(channel.queue_declare('bulk', passive=True).message_count)") == "1"
        service.start_worker()
        service.wait(job)


def test_purged_messages_are_forgotten_with_their_records(installed: Installed) -> None:
    """RabbitMQ tells nobody that it dropped them: that of a job that waits, and that of one whose worker is gone."""
    with running(installed, result_ttl=2, idempotency_ttl=2) as service:
        service.submit("mark", {"label": "runs", "seconds": 60})
        until(lambda: service.queue("default")["in_flight"] == 1, 10)
        service.workers[0].kill_group()
        service.submit("noop")
        assert (service.queue("default")["in_flight"], service.queue("default")["waiting"]) == (1, 1)
        until(lambda: asked(service, "print(channel.queue_purge('default'))") == "2", 10)
        until(lambda: service.queue("default")["depth"] == 0, 10)


def test_delayed_jobs_keep_no_worker_from_the_others_and_outlive_it(installed: Installed) -> None:
    with running(installed) as service:
        delayed = [service.submit("mark", {"label": "delayed"}, delay=8) for _ in range(40)]
        for _ in range(10):
            service.wait(service.submit("noop"))
        assert service.queue("default")["delayed"] == 40
        assert service.effects(label="delayed") == []
        service.workers[0].kill_group()
        service.start_worker()
        for job in delayed:
            assert service.wait(job)["attempts"] == 1


def test_without_the_node_alone_nothing_is_half_done_and_health_says_so(installed: Installed) -> None:
    with running(installed) as service:
        service.wait(service.submit("noop"))
        node = node_of(service)
        subprocess.run(["kill", f"-{signal.SIGSTOP.value}", str(node)], check=True)
        try:
            answer = service.post("noop", key="while away")
            assert answer.status_code == 503
            assert service.http.get("/health/ready").status_code == 503
            assert not service.health()["broker"]
        finally:
            subprocess.run(["kill", f"-{signal.SIGCONT.value}", str(node)], check=True)
        job = until(
            lambda: answer.json()["id"] if (answer := service.post("noop", key="while away")).is_success else "", 30
        )
        service.wait(job)
        until(lambda: service.health()["ok"], 30)


@pytest.mark.parametrize("variable", ["RABBITMQ_URL", "REDIS_URL"])
def test_each_address_that_is_missing_is_named(own: Service, variable: str) -> None:
    address = own.environment.pop(variable)
    try:
        assert f"{variable} is not set" in own.cli("worker", code=2)
    finally:
        own.environment[variable] = address


@pytest.mark.parametrize("address", ["guest:wrong@127.0.0.1:{}/", "guest:guest@127.0.0.1:{}/nowhere"])
def test_an_address_that_the_broker_refuses_is_told_in_words(own: Service, address: str) -> None:
    url = f"amqp://{address.format(own.broker_port)}"
    assert "RabbitMQ does not let us in" in own.cli("run", "noop", code=3, rabbitmq_url=url)
    assert "RabbitMQ does not let us in" in own.cli("worker", code=3, rabbitmq_url=url)
    assert "Correct the user" in own.cli("doctor", "--json", code=1, rabbitmq_url=url)


def test_doctor_refuses_what_only_this_machine_may_use(own: Service) -> None:
    said = own.cli("doctor", "--json", code=1, rabbitmq_url="amqp://guest:guest@rabbit.invalid/")
    assert "plain text" in said
    assert "guest is known to everybody" in said


def test_a_job_longer_than_the_broker_waits_is_refused(own: Service) -> None:
    said = own.cli("worker", code=2, consumer_timeout=600)
    assert "HARD_LIMIT=600" in said
    assert "CONSUMER_TIMEOUT=600" in said


def test_docker_runs_rabbitmq_where_none_is_installed_and_leaves_nothing(installed: Installed, tmp_path: Path) -> None:
    """Its container is no child of ours: what we start must remove it, even if all of that is killed."""
    docker = tmp_path / "docker"
    server = installed.stack.environment(0)["RABBITMQ_SERVER"]
    docker.write_text(DOCKER.format(python=installed.python, package=installed.package, server=server))
    docker.chmod(0o755)
    command = [installed.python, "-c", USE_IT.format(package=installed.package), tmp_path / "data"]
    (tmp_path / "data").mkdir()
    environment = {**os.environ, "RABBITMQ_SERVER": str(docker)}
    assert subprocess.check_output(command, env=environment, text=True, timeout=60) == "1\n", "the message was kept"
    until(lambda: not (tmp_path / "running").exists(), 10)


def test_a_server_on_path_is_taken_before_docker(installed: Installed, tmp_path: Path) -> None:
    command = [installed.python, "-c", WHICH_SERVER.format(package=installed.package)]

    def chosen() -> str:
        return subprocess.check_output(command, cwd=tmp_path, env={"PATH": str(tmp_path)}, text=True)

    assert "or Docker with Compose" in chosen()
    for name in ("docker", "rabbitmq-server"):
        (tmp_path / name).symlink_to("/bin/true")
        assert chosen() == str(tmp_path / name)


def test_without_rabbitmq_and_docker_it_says_what_to_do(installed: Installed, tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho 'Is the docker daemon running?' >&2\nexit 1\n")
    docker.chmod(0o755)
    environment = {**os.environ, "RABBITMQ_SERVER": str(docker)}
    done = subprocess.run([installed.script, "demo"], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "Is the docker daemon running?" in done.stderr
    assert "start it, or install RabbitMQ" in done.stderr
