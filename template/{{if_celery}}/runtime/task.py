"""The base class of every task: asks before it runs, retries by policy, waits without spending a try, ends once.

An ordinary Celery task runs whatever is delivered, as often as it is delivered. This one asks the job's record first
(one round trip) and hands its end to the result backend (one more), which is what makes late acknowledgement safe.
"""

import logging
import os
import pickle
import random
import re
import signal
import time
import uuid
from functools import cache, partial
from importlib.util import resolve_name
from types import FrameType
from typing import Any, NoReturn

import structlog
from billiard.common import terminate_handler_fired
from billiard.process import current_process
from celery import states
from celery.app.task import Task
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded, WorkerShutdown, WorkerTerminate

from .. import telemetry
from ..contract import JobDeclarationError
from ..documents import NotJsonError, encode
from . import results
from .connection import patiently
from .errors import describe, describe_traceback
from .progress import JobCancelled
from .record import clear_notes, envelope, owner, queue_of, records
from .retry import NO_RETRY, PermanentError, PoisonError, RetryPolicy, Snooze, TimedOut, TransientError
from .submission import P, R, SubmittableTask

log = structlog.get_logger(__name__)
# The event of a delivery that did not run, and why; of others there is nothing to tell.
DROPPED = {
    "busy": ("task-retried", "busy"),
    "skipped": ("task-revoked", "skipped"),
    "cancelled": ("task-revoked", "cancelled"),
}

NAME = re.compile(r"[\w.-]+")
LARGEST_ERROR = 65_536  # bytes of an exception, pickled
REJECTED_FOR = 1.0  # seconds until a job that rejected its message with requeue=True runs again


class StandIn(Exception):
    """For Celery's results and signals, in place of an error that must not leave its process; `__cause__` is that one.

    What is no Exception ends the process that meets it, a MemoryError Celery's main process; others cannot be pickled,
    or are megabytes long.
    """


class JobTask(SubmittableTask[P, R]):
    """A Celery task with the service's patterns; `@job` sets the options, `app.task` works as well."""

    abstract = True
    Request = resolve_name("..ops.worker", __package__) + ":JobRequest"  # the worker's main process has it

    retry_policy: RetryPolicy = NO_RETRY
    singleton: str | None = None
    outcome: bool = False
    before_run: Any = Task.before_start

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """Refuse a name that would be taken apart in our keys and metrics.

        Celery calls `before_start` outside of the run: what it raises there (Ignore, SystemExit) would leave no end.
        """
        if cls.name and not NAME.fullmatch(cls.name):
            raise JobDeclarationError(f"job {cls.name!r}: a name has letters, digits and _ . - only")
        if cls.before_start is not Task.before_start:
            cls.before_run, cls.before_start = cls.before_start, Task.before_start

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        request = self.request
        if request.called_directly or request.is_eager:
            return self.run(*args, **kwargs)
        holder = f"{owner(os.getpid())}{uuid.uuid4().hex}"
        attempt = (request.retries or 0) + 1
        clear_notes(request)
        SoftLimit.install()
        SoftLimit.heeded = True
        run = telemetry.Run("celery", str(self.name), queue_of(request), str(request.id), attempt, envelope(request))
        request.update(owner=holder, run=run)
        action = ""
        try:
            action, detail = patiently(partial(records().start, request, holder, str(self.name), self.singleton))
            if action == "run":
                return self._run(args, kwargs)
            if action == "duplicate":  # another job did this already, under the same key
                return patiently(partial(results.stored, detail))
            if action == "poison":
                raise PoisonError(f"killed its worker {detail} times")
            if action == "cancelled":
                raise JobCancelled(request.id)
            if action == "busy":
                self._send_again(int(detail) / 1000 + random.random() / 4)
            if action == "skipped":
                request.update(outcome="skipped", why=f"skipped: {detail} is still running")
                self.backend.mark_as_revoked(str(request.id), request.why, request=request)
            if action == "finished" and (wait := patiently(partial(self.backend.repeat_end, request))):
                self._send_again(wait)
            log.log(logging.DEBUG if action == "busy" else logging.INFO, "delivery dropped", why=action)
            raise Ignore(*DROPPED.get(detail if action == "finished" else action, ()))
        except Snooze as snooze:
            self._snooze(snooze.delay, snooze.why)
        except (Retry, Ignore, Reject, WorkerShutdown, WorkerTerminate):
            raise
        except JobCancelled:
            self._cancelled()
        except SoftTimeLimitExceeded:
            if action != "run":  # Redis has not answered: it has not begun
                raise Reject("not begun within its limit", requeue=True) from None
            if patiently(partial(records().field, str(request.id), "cancel")):
                self._cancelled()
            taken = time.monotonic() - run.began
            if taken < ((request.timelimit or (None, None))[1] or self.soft_time_limit or 0) - 1:
                self._snooze(0, "interrupted")  # the signal was meant for the job before this one
            self._fail(TimedOut(f"stopped by its soft limit after {taken:.0f} s"))
        except BaseException as error:
            if terminate_handler_fired():  # a signal ends this process; its job will be taken over
                raise
            self._fail(error)

    def replace(self, sig: Any) -> Any:
        """As in Celery: another job, or workflow, takes this one's place and id, and what waits for it."""
        if not self.request.called_directly and not self.request.is_eager:
            self.request.update(replaced=True)
            fields = {"message": f"replaced by {sig.name}", "follows": 1}
            patiently(partial(records().finish, self.request, "queued", "replaced", **fields))
        return super().replace(sig)

    def update_state(self, task_id: Any = None, state: Any = None, meta: Any = None, **kwargs: Any) -> None:
        """As in Celery; a state in which a run ends takes effect with the `Ignore` that the job raises after it."""
        if state in results.STATES and task_id in (None, self.request.id):
            self.request.update(wished=(state, meta))
        else:
            super().update_state(task_id, state, meta, **kwargs)

    def _run(self, args: Any, kwargs: Any) -> Any:
        request = self.request
        args = [results.resolve(value, request.root_id) for value in args]
        try:
            values = self.bind_arguments(args, kwargs)
        except (TypeError, ValueError) as error:
            raise PermanentError(f"the payload does not fit {self.name}: {error}") from error
        try:
            self.before_run(request.id, args, kwargs)
            result = self.run(*args, **kwargs) if values is None else self.run(**values)
        except (Ignore, Reject, Retry) as wish:
            result = self._obey(wish)
        finally:
            SoftLimit.heeded = False
        try:
            encoded = encode({"ok": True, "value": result} if self.outcome else result)
        except NotJsonError as error:
            raise PermanentError(f"{self.name} returned {type(result).__name__}, which is not JSON: {error}") from error
        return results.keep(request, encoded)

    def _obey(self, wish: Ignore | Reject | Retry) -> Any:
        """Give a job that raised one of Celery's own exceptions an end or another run; Celery drops some in silence."""
        if self.request.get("replaced"):
            raise wish
        if isinstance(wish, Ignore):
            state, value = self.request.get("wished") or ("", None)
            if state == states.SUCCESS:
                return value
            if state == states.FAILURE:
                raise PermanentError(describe(value) if isinstance(value, BaseException) else str(value)) from wish
            self._cancelled(f"ignored by the job: {wish}")
        if isinstance(wish, Reject):
            if wish.requeue:
                raise Snooze(REJECTED_FOR, f"rejected by the job: {wish.reason}") from wish
            raise PermanentError(f"rejected by the job: {wish.reason}") from wish
        if wish.sig is None:  # not by `retry()`, which has sent the message of the next run
            raise TransientError(str(wish), wish.when if isinstance(wish.when, (int, float)) else None) from wish
        raise wish

    def _send_again(self, delay: float, *, retries: int = 0, snoozes: int = 0) -> None:
        """Send this job's message once more, due in `delay` s; with no retry or snooze added it counts as the same."""
        request = self.request
        head = {**envelope(request), "snoozes": envelope(request)["snoozes"] + snoozes}
        message = self.signature_from_request(
            countdown=delay, retries=(request.retries or 0) + retries, headers={**(request.headers or {}), "job": head}
        )
        patiently(message.apply_async)

    def _snooze(self, delay: float, why: str) -> NoReturn:
        self._send_again(delay, snoozes=1)
        fields = {"message": why, "due_at": time.time() + delay}
        patiently(partial(records().finish, self.request, "scheduled", "snoozed", **fields))
        raise Ignore("task-retried", why)

    def _cancelled(self, why: str = "cancelled") -> NoReturn:
        self.request.update(why=why)
        self.backend.mark_as_revoked(str(self.request.id), why, request=self.request)
        raise Ignore("task-revoked", why)

    def _fail(self, error: BaseException) -> NoReturn:
        self.request.run.failed(error)
        self.request.update(error=describe(error), error_traceback=describe_traceback(error))
        decision = self.retry_policy.decide((self.request.retries or 0) + 1, error)
        if isinstance(decision, str):
            self.request.update(reason=decision)
            raise portable(error)
        self._send_again(decision, retries=1)
        self.request.update(due_at=time.time() + decision)
        raise Retry(exc=portable(error), when=decision) from error


class SoftLimit:
    """Whether a soft limit interrupts: a body that has ended kept it, however long Redis takes to record the end."""

    heeded = False

    @staticmethod
    @cache  # not at the fork: billiard installs its own after all that a pool process begins with
    def install() -> None:
        """Put ours in place of billiard's handler; in the main process there is none."""
        if current_process().name != "MainProcess":
            signal.signal(signal.SIGUSR1, SoftLimit.reached)

    @staticmethod
    def reached(number: int, frame: FrameType | None) -> None:
        """Raise SoftTimeLimitExceeded in a body."""
        if SoftLimit.heeded:
            raise SoftTimeLimitExceeded


def portable(error: BaseException) -> Exception:
    """The error if Celery can take it to its main process as it is, else a StandIn."""
    try:
        pickled = pickle.dumps(error)
        if isinstance(error, Exception) and not isinstance(error, MemoryError) and len(pickled) <= LARGEST_ERROR:
            pickle.loads(pickled)
            return error
    except BaseException:  # an error's own code runs here
        pass
    stand_in = StandIn(describe(error))
    stand_in.__cause__ = error
    return stand_in
