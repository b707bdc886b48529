"""What an operator, or a power cut, does to the RabbitMQ node of a running service."""

import subprocess
from contextlib import suppress
from pathlib import Path

from ..contract.processes import listening, until
from ..contract.service import Service

ON_A_CHANNEL = """
import sys
import amqp
with amqp.Connection(f"127.0.0.1:{sys.argv[1]}") as connection:
    channel = connection.channel()
    """


def control(service: Service, *words: str) -> str:
    """`rabbitmqctl` for the service's own node."""
    environment = dict(line.split("=", 1) for line in node_environment(service) if "=" in line)
    program = Path(service.environment["RABBITMQ_SERVER"]).with_name("rabbitmqctl")
    done = subprocess.run([program, *words], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def node_environment(service: Service) -> list[str]:
    home = f"HOME={service.folder}/broker"
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            lines = (folder / "environ").read_text().split("\0")
            if home in lines and (folder / "comm").read_text() == "beam.smp\n":
                return lines
    raise AssertionError("no node")


def on_a_channel(service: Service, code: str) -> str:
    """What this line prints, with an AMQP `channel` to the node."""
    command = [str(service.installed.python), "-c", ON_A_CHANNEL + code, str(service.broker_port)]
    return subprocess.check_output(command, text=True).strip()


def forget_quorum_queues(service: Service) -> None:
    """Kill the node and take from its disk what a node killed seconds after a queue was declared has not written yet.

    Started again, it lists the queue, but knows nothing of it.
    """
    service.broker.kill_group()
    until(lambda: not listening(service.broker_port), 10)
    (service.folder / "broker/rabbit@localhost/quorum/rabbit@localhost/names.dets").unlink()
    service.start_broker()
    until(lambda: listening(service.broker_port + 1), 30)  # Redis' port
