"""Operating system processes that a test may kill, freeze and drain, and conditions to wait for instead of sleeping."""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T | None], within: float, say: str | Callable[[], object] = "") -> T:
    """The first true value of `condition`, looked at every 50 ms, then less often: each look costs the service, too.

    Fails after `within` seconds and says why.
    """
    began = time.monotonic()
    while not (value := condition()):
        if (waited := time.monotonic() - began) > within:
            raise AssertionError(f"not within {within:g} s: {say() if callable(say) else say or condition}")
        time.sleep(min(0.05 + waited / 20, 0.3))
    return value


@contextmanager
def within(seconds: float) -> Generator[None, None, None]:
    """Fails if the block takes longer by the clock."""
    started = time.monotonic()
    yield
    taken = time.monotonic() - started
    assert taken <= seconds, f"took {taken:.1f} s, not {seconds:g} s"


def free_ports(count: int) -> Iterator[int]:
    """Loopback ports that nobody listens on, all different; nor on the one after each, which some brokers take, too.

    They lie below those that the kernel gives to outgoing connections: such a one would hold the port of a server that
    is started again.
    """
    found: set[int] = set()
    while len(found) < count:
        port = random.randrange(10_000, 32_000, 2)
        with (
            suppress(OSError),
            socket.create_server(("127.0.0.1", port)),
            socket.create_server(("127.0.0.1", port + 1)),
        ):
            found.add(port)
    return iter(sorted(found))


def listening(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.5):
        return True
    return False


class Process:
    """One command in a session of its own, so that it and all its children can be signalled as one group."""

    def __init__(
        self, name: str, command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str], log: Path
    ) -> None:
        self.name, self.log = name, log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [str(part) for part in command],
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._popen.poll()

    def send(self, number: signal.Signals) -> None:
        """To the process alone, as a container runtime or init does."""
        self._popen.send_signal(number)

    def send_group(self, number: signal.Signals) -> None:
        """To the process and all its children, also those that outlived it."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill_group(self) -> None:
        """SIGKILL to parent and children at once: a machine that lost its power."""
        self.send_group(signal.SIGKILL)
        self._popen.wait()

    def freeze(self) -> None:
        """Connections stay open, nothing answers."""
        self.send_group(signal.SIGSTOP)

    def thaw(self) -> None:
        self.send_group(signal.SIGCONT)

    def wait(self, within: float) -> int:
        """The exit code; fails if the process is still there after `within` seconds."""
        try:
            return self._popen.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} was still running after {within:g} s") from None

    def stop(self, within: float = 45) -> int:
        """SIGTERM to the process alone and wait for it: an orderly redeployment."""
        self.send(signal.SIGTERM)
        return self.wait(within)
