"""Child processes started, watched and stopped together, each drained for its own grace period.

Ctrl-C in a terminal reaches every process of the session at once, and a second signal makes a worker drop its jobs; so
each child has a session of its own, hears one SIGTERM from us, and only after its grace period SIGKILL.
"""

import asyncio
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from .embedded import tethered

LINE_LIMIT = 1 << 20  # bytes; what a job logs may be long


@dataclass
class Child:
    """One child process: `tail` holds its last lines; `grace` is the time in seconds it gets to end on SIGTERM."""

    name: str
    command: Sequence[str]
    grace: float
    process: asyncio.subprocess.Process
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=20))
    stopping: bool = False
    started_at: float = field(default_factory=time.monotonic)
    lasted: float = 0.0  # seconds, once it has ended

    @property
    def epitaph(self) -> str:
        """Who ended how, for the log."""
        return f"{self.name} ended by itself with exit code {self.process.returncode}"

    def kill(self) -> None:
        """SIGKILL to it and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


class Processes:
    """An async context manager; leaving it stops what still runs, the last started first.

    `show(name, line)` gets each line of output; `env` is added to our environment.
    """

    def __init__(self, env: Mapping[str, str], show: Callable[[str, str], None] = lambda name, line: None) -> None:
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", **env}
        self._show = show
        self._children: dict[str, Child] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._crashed: asyncio.Queue[Child] = asyncio.Queue()

    async def start(self, name: str, command: Sequence[str], *, grace: float = 5.0) -> None:
        """Start a child; on Linux it gets SIGTERM when we die, however that happens."""
        process = await asyncio.create_subprocess_exec(
            *tethered(command),
            env=self._env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            limit=LINE_LIMIT,
        )
        child = self._children[name] = Child(name, command, grace, process)
        self._watchers[name] = asyncio.create_task(self._watch(child))

    async def run(self, command: Sequence[str]) -> int:
        """Run a short command without showing its output; answers its exit code."""
        quiet = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            *tethered(command), env=self._env, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
        )
        return await process.wait()

    async def crash(self) -> Child:
        """Wait until a child ends that was not asked to."""
        return await self._crashed.get()

    async def stop(self, *names: str) -> None:
        """SIGTERM to these at once, then to each its own grace period before SIGKILL."""
        await asyncio.gather(*(self._stop(name) for name in names if name in self._children))

    def kill(self) -> None:
        """SIGKILL to all, for those who cannot wait."""
        for child in self._children.values():
            child.stopping = True
            child.kill()

    async def _stop(self, name: str) -> None:
        child, watcher = self._children.pop(name), self._watchers.pop(name)
        child.stopping = True
        if child.process.returncode is None:
            child.process.terminate()
        done, _ = await asyncio.wait([watcher], timeout=child.grace)
        if not done:
            self._show(name, f"did not end within {child.grace:g} s of SIGTERM: killed")
            child.kill()
            await watcher

    async def _watch(self, child: Child) -> None:
        output = asyncio.create_task(self._pump(child))
        await child.process.wait()
        child.lasted = time.monotonic() - child.started_at
        child.kill()  # what it may have left behind in its session
        await output
        if not child.stopping:
            self._crashed.put_nowait(child)

    async def _pump(self, child: Child) -> None:
        assert child.process.stdout is not None
        while True:
            try:
                line = await child.process.stdout.readline()
            except ValueError:  # asyncio has dropped it
                line = f"(a line longer than {LINE_LIMIT} bytes)\n".encode()
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            child.tail.append(text)
            self._show(child.name, text)

    async def __aenter__(self) -> "Processes":
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in reversed(self._children.copy()):
            await self.stop(name)
