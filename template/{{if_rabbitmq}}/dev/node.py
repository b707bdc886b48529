"""Runs a private RabbitMQ node, the port mapper that Erlang wants, and Valkey, as one process: what ends one ends all.

    python -m PACKAGE.dev.node FOLDER PORT RABBITMQ-SERVER VALKEY-COMMAND…

They stay in our process group, so that a kill -9 of the group takes all at once, as a power cut would.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from .embedded import free_port, tethered

CONFIGURATION = """\
log.console = true
log.console.level = error
log.file = false
"""
LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1}"
IDLE = "+sbwt none +sbwtdcpu none +sbwtdio none"  # schedulers without work sleep at once


def environment(folder: Path, port: int, mapper_port: int) -> dict[str, str]:
    """The variables of a node that uses no file and no port of the system's own."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))},
        "HOME": str(folder),  # Erlang makes its cookie there, a random one that only we can read
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(mapper_port),
        "RABBITMQ_NODENAME": "rabbit@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(folder),
        "RABBITMQ_LOG_BASE": str(folder),
        "RABBITMQ_LOG": "error,-color",
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
        "RABBITMQ_CONF_ENV_FILE": os.devnull,
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{LOOPBACK} {IDLE}",
        "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the node, which then gets our signals
    }


def main(folder: Path, port: int, server: str, state: list[str]) -> None:
    """Run them until one of them ends, or SIGTERM."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rabbitmq.conf").write_text(CONFIGURATION)
    (folder / "enabled_plugins").write_text("[].\n")
    mapper_port = free_port()
    mapper = [shutil.which("epmd") or "epmd", "-address", "127.0.0.1", "-port", str(mapper_port)]
    env = environment(folder, port, mapper_port)
    children = [subprocess.Popen(tethered(command), env=env) for command in (mapper, state, [server])]
    signal.signal(signal.SIGTERM, lambda *_: children[-1].terminate())
    os.wait()
    for child in reversed(children):
        child.terminate()
        child.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
