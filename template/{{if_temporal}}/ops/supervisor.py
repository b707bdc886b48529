"""Start the worker again when it dies: a job may take its whole process along.

The worker is a child process. If memory or a library kills it, a platform would start the container anew in a while;
here another child starts at once, and gives back what the one before held.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from .. import telemetry

log = structlog.get_logger(__name__)
PR_SET_PDEATHSIG = 1
PAUSE = 0.5  # seconds before a child that died at once is replaced


def supervise(work: Callable[[], None]) -> None:
    """Run `work` in a child until SIGTERM or its own end; ends with its exit code unless a signal killed it."""
    stopping = False
    child = 0

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True
        if child:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    while not stopping:
        began, parent = time.monotonic(), os.getpid()
        child = os.fork()
        if child == 0:
            _child(work, parent)
        if stopping:  # between the fork and the end of its line
            stop()
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            sys.exit(code)
        if not stopping:
            log.error("the worker was killed, another starts", by=signal.Signals(-code).name)
            time.sleep(max(0.0, PAUSE - (time.monotonic() - began)))


def _child(work: Callable[[], None], parent: int) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":  # it must not outlive its supervisor: nobody would stop it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        log.exception("the worker failed")
    finally:
        telemetry.leave()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
