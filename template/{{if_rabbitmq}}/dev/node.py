"""Runs a private RabbitMQ and a Valkey as one process: what ends one ends both.

    python -m PACKAGE.dev.node FOLDER PORT RABBITMQ-SERVER VALKEY-COMMAND…

Where RABBITMQ-SERVER is the path of `docker`, Compose runs RabbitMQ in a container; else it is a node of our own with
the port mapper that Erlang wants. They stay in our process group: a kill -9 of it takes all, as a power cut does.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

from .embedded import free_port, tethered

CONFIGURATION = """\
log.console = true
log.console.level = error
log.file = false
"""
LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1}"
IDLE = "+sbwt none +sbwtdcpu none +sbwtdio none"  # schedulers without work sleep at once
GUARD = "import subprocess, sys; sys.stdin.read(); subprocess.run(sys.argv[1:])"  # runs a command when stdin ends


def own(folder: Path, port: int, server: str) -> tuple[list[list[str]], dict[str, str]]:
    """The commands that run a node of ours, the port mapper first, and their environment."""
    (folder / "rabbitmq.conf").write_text(CONFIGURATION)
    (folder / "enabled_plugins").write_text("[].\n")
    mapper_port = free_port()
    mapper = [shutil.which("epmd") or "epmd", "-address", "127.0.0.1", "-port", str(mapper_port)]
    return [mapper, [server]], environment(folder, port, mapper_port)


def contained(folder: Path, port: int, docker: str) -> tuple[list[list[str]], dict[str, str]]:
    """The command that runs a container, and its environment; it is removed when we end, even by kill -9."""
    questions = ("compose", "version"), ("info", "--format", "{{.SecurityOptions}}")
    answers = [subprocess.run([docker, *words], stdout=subprocess.PIPE) for words in questions]
    if any(answer.returncode for answer in answers):
        sys.exit("No rabbitmq-server here, and Docker with Compose does not answer: start it, or install RabbitMQ")
    (data := folder / "container").mkdir(exist_ok=True)
    env = {
        **os.environ,
        "DEV_USER": "0:0" if b"rootless" in answers[-1].stdout else f"{os.getuid()}:{os.getgid()}",
        "DEV_IDLE": IDLE,
        "DEV_PORT": str(port),
        "DEV_FOLDER": str(data),
    }
    project = f"dev-{zlib.crc32(bytes(data)):08x}"
    compose = [docker, "compose", "--file", str(Path(__file__).with_name("compose.yaml")), "--project-name", project]
    lock = (folder / "container.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)  # the guard of the last one may still be at work
    stdin, _open_until_we_end = os.pipe()
    subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", GUARD, *compose, "down", "--timeout", "0"],
        env=env,
        stdin=stdin,
        stdout=subprocess.DEVNULL,  # whoever reads ours may have ended too
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=[lock.fileno()],
    )
    return [[*compose, "up", "--no-log-prefix"]], env


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
    prepare = contained if Path(server).name == "docker" else own
    commands, env = prepare(folder, port, server)
    # `cwd` is where a node that crashes leaves its dump.
    children = [subprocess.Popen(tethered(command), env=env, cwd=folder) for command in (state, *commands)]
    signal.signal(signal.SIGTERM, lambda *_: children[-1].terminate())
    os.wait()
    for child in reversed(children):
        child.terminate()
        child.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
