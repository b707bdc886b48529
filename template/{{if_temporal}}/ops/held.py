"""What this worker runs, in a file, so that after a crash its successor gives it back at once.

Otherwise a killed worker's jobs wait until their heartbeats are missed (LEASE), which a job that kills its process
three times makes minutes.
"""

import base64
from contextlib import suppress
from pathlib import Path

import structlog
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

log = structlog.get_logger(__name__)
BEGUN, ENDED = b"+", b"-"
LOST = "Lost"  # type of the failure of a run whose worker was killed


class Journal:
    """A line when a run begins and one when it ends, with the token of that very attempt; empty when nothing runs."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self.running = 0

    def write(self, mark: bytes, token: bytes) -> None:
        self.running += 1 if mark == BEGUN else -1
        try:
            if self.running:
                self._file.write(mark + token + b"\n")
            else:
                self._file.truncate(0)
        except OSError as error:  # a full disk: after a kill the server gives the job back, LEASE later
            log.warning("what runs is not written down", error=str(error))

    @staticmethod
    def left(path: Path) -> list[bytes]:
        """The tokens of the runs that have begun and not ended."""
        left: dict[bytes, None] = {}
        with suppress(FileNotFoundError):
            for line in path.read_bytes().splitlines():
                if line[:1] == BEGUN:
                    left[line[1:]] = None
                else:
                    left.pop(line[1:], None)
        return [base64.b64decode(token) for token in left]


journal: Journal | None = None


def busy() -> bool:
    """Whether anything runs."""
    return journal is not None and journal.running > 0


class Note:
    """One run in the journal, from now until it is closed."""

    def __init__(self, info: activity.Info) -> None:
        self._token = base64.b64encode(info.task_token)
        if journal:
            journal.write(BEGUN, self._token)

    def close(self) -> None:
        if journal:
            journal.write(ENDED, self._token)


async def take_over(server: Client, path: Path) -> None:
    """Give back what the worker before held, then begin a journal."""
    global journal
    lost = Journal.left(path)
    for token in lost:
        with suppress(RPCError):  # that attempt is over: missed, or given to another worker
            await server.get_async_activity_handle(task_token=token).fail(ApplicationError("lost", type=LOST))
    path.unlink(missing_ok=True)
    journal = Journal(path)
    if lost:
        log.warning("the worker before this one was killed; its jobs were given back", count=len(lost))
