"""A real Temporal server of one process, so that `dev`, `demo` and the tests need no cluster and no fake misleads them.

It listens on loopback only, without TLS and API key, and keeps a file: workflows survive its kill -9.
"""

import os
import shutil
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from ..settings import settings
from . import EmbeddedUnavailable

NAME = "temporal"
PORT = 7233  # for `dev`, if free
UI_PORT: int | None = 8233

# Without the first six a workflow takes 6 times as long as on a server for production: its 50 ms polls and four
# partitions add up. Then the sign of life of workers, by which health knows them, priorities inside a queue, room for
# those who ask a workflow (or a schedule, which is one) while it works: else only the first of them is answered; and a
# job that is stuck in its own code is told after its first failure, not its fifth.
CONFIG = (
    'history.timerProcessorMaxTimeShift="1ms"',
    "history.timerProcessorMaxPollRPS=1000",
    "history.transferProcessorMaxPollRPS=1000",
    "history.visibilityProcessorMaxPollRPS=1000",
    "matching.numTaskqueueReadPartitions=1",
    "matching.numTaskqueueWritePartitions=1",
    "frontend.WorkerHeartbeatsEnabled=true",
    "frontend.ListWorkersEnabled=true",
    "matching.useNewMatcher=true",
    "history.MaxBufferedQueryCount=100",
    "system.numConsecutiveWorkflowTaskProblemsToTriggerSearchAttribute=1",
)
# From the start: what a namespace learns later it forgets to index for some seconds. See runtime/connection.py.
ATTRIBUTES = {"JobState": "Keyword", "JobParkedAt": "Datetime"}
# The file survives a kill -9, not a power cut: to wait for the disk at each step makes it 5 times as slow.
PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL")
DOWNLOAD = """
import asyncio, sys
from temporalio.testing import WorkflowEnvironment
async def main():
    async with await WorkflowEnvironment.start_local(download_dest_dir=sys.argv[1]):
        pass
try:
    asyncio.run(main())
except RuntimeError as error:
    sys.exit(str(error))
"""


def environment(port: int) -> dict[str, str]:
    """The variables that lead the service to the server on this port, and past any profile or key of your own."""
    empty = dict.fromkeys(("TEMPORAL_API_KEY", "TEMPORAL_PROFILE"), "")
    server = {"TEMPORAL_ADDRESS": f"127.0.0.1:{port}", "TEMPORAL_NAMESPACE": "default"}
    return {**server, **empty, "TEMPORAL_CONFIG_FILE": os.devnull, "TEMPORAL_TLS": "false"}


def broker_command(data_dir: Path, port: int, ui_port: int | None = None) -> list[str]:
    """The command line of a server that keeps its data in `data_dir`, with its web page if `ui_port` is given.

    Raises EmbeddedUnavailable if there is no `temporal` command and it cannot be downloaded, which may take a minute.
    """
    program = _program()
    data_dir.mkdir(parents=True, exist_ok=True)
    page = ["--headless"] if ui_port is None else ["--ui-ip", "127.0.0.1", "--ui-port", str(ui_port)]
    listen = ["--ip", "127.0.0.1", "--port", str(port), *page]
    file = ["--db-filename", str(data_dir.resolve() / "temporal.db"), "--log-level", "error"]
    known = (part for name, kind in ATTRIBUTES.items() for part in ("--search-attribute", f"{name}={kind}"))
    pragmas = (part for entry in PRAGMAS for part in ("--sqlite-pragma", entry))
    config = (part for entry in CONFIG for part in ("--dynamic-config-value", entry))
    return [str(program), "server", "start-dev", *listen, *file, *known, *pragmas, *config]


def _program() -> Path:
    """The command of TEMPORAL_CLI, else the one on PATH, else the SDK's download in the user's cache."""
    if (chosen := settings().temporal_cli) and not shutil.which(chosen):
        raise EmbeddedUnavailable(f"TEMPORAL_CLI={chosen} is no program: correct it, or leave it out")
    if found := shutil.which(chosen or "temporal"):
        return Path(found)
    # Not the SDK's default, /tmp: there anybody could have left a program of this name.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "temporal-sdk"
    cache.mkdir(parents=True, exist_ok=True)
    program = cache / f"temporal-sdk-python-{version('temporalio')}"
    if not program.exists():
        print(f"downloading a Temporal server into {cache}", file=sys.stderr, flush=True)
        command = [sys.executable, "-c", DOWNLOAD, str(cache)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not program.exists():
            why = (done.stderr.strip().splitlines() or [f"no {program.name} came"])[-1]
            raise EmbeddedUnavailable(
                f"No Temporal server here ({why}). Install the temporal command: `brew install temporal`, or "
                "https://temporal.io/setup, or `go install github.com/temporalio/cli/cmd/temporal@v1.5.1`; if it is "
                "not on PATH, set TEMPORAL_CLI. Or set TEMPORAL_ADDRESS to a server that runs."
            )
    return program


def is_answering(port: int) -> bool:
    """Whether a Temporal server on this loopback port knows its namespace: then it starts workflows, too.

    It takes connections before that. One DescribeNamespace call, spelt out, needs neither gRPC nor the SDK, whose
    import alone takes longer than the server to start.
    """
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(_REQUEST)
            answer = connection.makefile("rb")
            while len(head := answer.read(9)) == 9:
                kind, flags, body = head[3], head[4], answer.read(int.from_bytes(head[:3], "big"))
                if kind == _DATA and b"default" in body:
                    return True
                if kind == _HEADERS and flags & _END_STREAM:
                    return False
    except OSError:
        pass
    return False


_DATA, _HEADERS, _SETTINGS, _END_STREAM, _END_HEADERS = 0, 1, 4, 1, 4


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame of HTTP/2 (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _header(name: bytes, value: bytes) -> bytes:
    """One header of HTTP/2 in plain text (RFC 7541, section 6.2.2)."""
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


_HEADERS_OF_GRPC = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/temporal.api.workflowservice.v1.WorkflowService/DescribeNamespace"),
    (b":authority", b"localhost"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
)
_NAMESPACE = b"\x0a\x07default"  # field 1 of DescribeNamespaceRequest
_REQUEST = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + _frame(_SETTINGS, 0, 0)
    + _frame(_HEADERS, _END_HEADERS, 1, b"".join(_header(*pair) for pair in _HEADERS_OF_GRPC))
    + _frame(_DATA, _END_STREAM, 1, b"\0" + len(_NAMESPACE).to_bytes(4, "big") + _NAMESPACE)
)
