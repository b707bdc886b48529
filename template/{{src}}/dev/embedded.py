"""A broker of our own that ends when we do: what `dev`, `demo` and the tests start, kill and start again on its data.

Which one it is says `broker.py`.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from . import EmbeddedUnavailable, broker

# Runs in a fresh interpreter, without site packages: asks Linux (PR_SET_PDEATHSIG, kept over exec) for SIGTERM when the
# starter dies, and does not run the command at all if it died before.
TETHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def tethered(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` so that it ends when this process dies, even by kill -9 (Linux only).

    Linux binds the tether to the *thread* that starts the command: start it from one that lives as long as the command.
    """
    if sys.platform != "linux":
        return [*command]
    return [sys.executable, "-I", "-S", "-c", TETHER, str(os.getpid()), *command]


def free_port() -> int:
    """A TCP port on loopback that nothing listens on at this moment, nor on the next one."""
    while True:
        with suppress(OSError, OverflowError), socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with socket.create_server(("127.0.0.1", port + 1)):
                return port


class EmbeddedBroker:
    """One embedded server for tests: a context manager that can also be killed and started again on its data.

    It runs in its own session, so Ctrl-C does not reach it, and ends when this process dies.
    """

    def __init__(self, data_dir: Path, port: int | None = None) -> None:
        self.data_dir = data_dir
        self.port = port or free_port()
        self.environment = broker.environment(self.port)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The server's process, for tests that freeze it (SIGSTOP)."""
        if self._process is None:
            raise EmbeddedUnavailable("the embedded broker is not running: call start() first")
        return self._process.pid

    def start(self, timeout: float = 120.0) -> None:
        """Wait until it answers, at most `timeout` seconds. Raises EmbeddedUnavailable with the server's log."""
        if broker.is_answering(self.port):
            raise EmbeddedUnavailable(f"port {self.port} is taken by another broker: stop that one")
        command = broker.broker_command(self.data_dir, self.port)
        log = self.data_dir / f"{broker.NAME}.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                tethered(command), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        deadline = time.monotonic() + timeout
        while not broker.is_answering(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise EmbeddedUnavailable(f"{broker.NAME} did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it cleanly; the data stays."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would (-9); start() then reads its data."""
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
            os.killpg(self._process.pid, with_signal)  # it leads its session: what it started ends with it
            os.killpg(self._process.pid, signal.SIGCONT)  # a frozen one would not hear SIGTERM
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def __enter__(self) -> "EmbeddedBroker":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
