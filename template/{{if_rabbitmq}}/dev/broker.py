"""A real RabbitMQ node with a Valkey beside it, so that `dev`, `demo` and the tests need no server that runs already.

Both listen on loopback only and keep what they know in files: jobs survive their kill -9. RabbitMQ must be installed,
though not running, or Docker with Compose; its `guest` can log in from this machine alone.
"""

import os
import shutil
import socket
import sys
from pathlib import Path

from ..settings import settings
from . import EmbeddedUnavailable, valkey

NAME = "rabbitmq"
PORT = 15673  # for `dev`, if free; Valkey takes the next one
UI_PORT: int | None = None  # its web page needs a plugin
PROGRAMS = (  # Debian's own `rabbitmq-server` on PATH starts nothing but the system's node
    "/usr/lib/rabbitmq/bin/rabbitmq-server",
    "/opt/homebrew/sbin/rabbitmq-server",
    "/usr/local/sbin/rabbitmq-server",
)


def environment(port: int) -> dict[str, str]:
    """The variables that lead the service to the servers on this port and the next."""
    return {"RABBITMQ_URL": f"amqp://guest:guest@127.0.0.1:{port}/", **valkey.environment(port + 1)}


def broker_command(data_dir: Path, port: int, ui_port: int | None = None) -> list[str]:
    """The command line of both servers, with their data in `data_dir`.

    Raises EmbeddedUnavailable where one of them is not installed.
    """
    program = _program()
    state = valkey.broker_command(data_dir / valkey.NAME, port + 1)
    return [sys.executable, "-m", f"{__package__}.node", str(data_dir.resolve()), str(port), str(program), *state]


def _program() -> Path:
    """RABBITMQ_SERVER, else where packages put it, else what is on PATH, else Docker, which has it in a container."""
    if (chosen := settings().rabbitmq_server) and not os.access(chosen, os.X_OK):
        raise EmbeddedUnavailable(f"RABBITMQ_SERVER={chosen} is no program: correct it, or leave it out")
    installed = (*filter(os.path.exists, PROGRAMS), *filter(None, map(shutil.which, ("rabbitmq-server", "docker"))))
    found = chosen or next(iter(installed), None)
    if not found:
        raise EmbeddedUnavailable(
            "No RabbitMQ here. Install it: `apt install rabbitmq-server`, `dnf install rabbitmq-server` or `brew "
            "install rabbitmq` (its service need not run), or Docker with Compose; if its program is in no usual "
            "place, set RABBITMQ_SERVER. Or set RABBITMQ_URL and REDIS_URL to servers that run."
        )
    return Path(found).absolute()


def is_answering(port: int) -> bool:
    """Whether both take connections: RabbitMQ greets only when it has started."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return bool(connection.recv(1)) and valkey.is_answering(port + 1)
    except OSError:
        return False
