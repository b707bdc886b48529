"""Start the worker again when it dies: a job may take its whole process along.

The worker is a child process. If memory or a library ends it, a platform would start the container anew in a while;
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
from ..contract import ContractError
from ..settings import NotConfigured

log = structlog.get_logger(__name__)
PR_SET_PDEATHSIG = 1
PAUSE = 0.5  # seconds before a child that died at once is replaced
FAILED, REPLACE = 70, 75  # exit codes of a child: it cannot go on; it asks for another in its place


def supervise(work: Callable[[], int]) -> None:
    """Run `work` in a child until SIGTERM; exits with the code that it returns then, and with 1 if it raises.

    A child that a job ended, by a signal or by `os._exit`, is replaced.
    """
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
        if stopping:
            sys.exit(max(code, 0))
        if code == FAILED:
            sys.exit(1)
        if code != REPLACE:
            by = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            log.error("the worker was killed, another starts", by=by)
        time.sleep(max(0.0, PAUSE - (time.monotonic() - began)))


def _child(work: Callable[[], int], parent: int) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":  # it must not outlive its supervisor: nobody would stop it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    code = FAILED
    try:
        code = work()
    except (ContractError, NotConfigured) as error:  # which says by itself what to correct
        log.error("the worker cannot start", error=str(error))
    except BaseException:
        log.exception("the worker failed")
    finally:
        telemetry.leave()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
