"""Start the worker again when it dies, and let others take what it held: a job may take its whole process along.

The worker is a child process. If memory or a library kills it, a platform would start the container anew in a while and
the jobs would wait for their leases; here another child starts at once.
"""

import ctypes
import gc
import mmap
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import structlog
from redis import Redis
from redis.sentinel import Sentinel

from .. import telemetry
from ..runtime import sentinels
from ..runtime.connection import CONNECT_TIMEOUT, REPLY_TIMEOUT, UNAVAILABLE
from ..runtime.record import script
from ..settings import settings

log = structlog.get_logger(__name__)
PR_SET_PDEATHSIG = 1
PAUSE = 0.5  # seconds before a child that died at once is replaced


def supervise(work: Callable[[str], None], queues: Sequence[str]) -> None:
    """Run `work(owner)` in a child until SIGTERM, and again in another whenever it ends unasked.

    Ends with the child's exit code after SIGTERM, or if `work` raised: another child could not work either.
    """
    stopping = False
    child = 0
    failed = mmap.mmap(-1, 1)  # shared with the child: an exit code may also come from a job's `os._exit(1)`

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True
        if child:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    gc.collect()
    gc.freeze()  # what was imported is left out of the collections of each child
    while not stopping:
        owner, began, parent = uuid.uuid4().hex, time.monotonic(), os.getpid()
        child = os.fork()
        if child == 0:
            _child(work, owner, parent, failed)
        if stopping:  # between the fork and the end of its line
            stop()
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if failed[0] or (stopping and code == 0):
            sys.exit(code)
        _release(owner, queues)
        if stopping:  # killed while it drained
            sys.exit(1)
        how = {"by": signal.Signals(-code).name} if code < 0 else {"exit_code": code}
        log.error("the worker has ended, another starts", **how)
        time.sleep(max(0.0, PAUSE - (time.monotonic() - began)))


def _child(work: Callable[[str], None], owner: str, parent: int, failed: mmap.mmap) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":  # it must not outlive its supervisor: nobody would stop it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    code = 1
    try:
        work(owner)
        code = 0
    except BaseException:
        failed[0] = 1
        log.exception("the worker failed")
    finally:
        telemetry.leave()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _release(owner: str, queues: Sequence[str]) -> None:
    with suppress(*UNAVAILABLE):  # if not now, the leases end by themselves
        released = connect_blocking().eval(script(), 0, "release", owner, *queues)
        log.info("its jobs were given back", count=released)


def connect_blocking() -> Redis:
    """A client for threads, and for processes without an event loop."""
    url = settings().require_redis_url()
    options: dict[str, Any] = {"socket_connect_timeout": CONNECT_TIMEOUT, "socket_timeout": REPLY_TIMEOUT}
    if not url.startswith("sentinel://"):
        return Redis.from_url(url, **options, **({"ssl_check_hostname": True} if "rediss" in url[:6] else {}))
    nodes, login = sentinels.parse(url)
    return Sentinel(nodes, **options).master_for(settings().sentinel_master, **login, **options)
