"""Cancel a job wherever it is: Celery's own `revoke` reaches only the workers that listen at that moment.

With all workers down a revoked job would run all the same, and one that waits for its time would stay until then. Here
the record says that it is cancelled before any worker is asked.
"""

from typing import Any

from celery.app.control import TERM_SIGNAME, Control
from celery.utils.functional import maybe_list

from . import transport
from .record import records


class JobControl(Control):
    """Celery's `app.control`; `AsyncResult.revoke()` comes here, too."""

    def cancel(self, job_id: str) -> None:
        """Cancel what has not started, ask what runs to stop; with a later step of a chain, the step before it."""
        if self._cancel(job_id) == "scheduled" and (earlier := records().field(job_id, "after")):
            self.cancel(earlier)

    def _cancel(self, job_id: str) -> str | None:
        before = records().cancel(job_id)
        if before in ("running", "scheduled", "retrying"):
            self.broadcast("interrupt", arguments={"job_id": job_id})
            transport.bring_forward(job_id)
        return before

    def revoke(
        self, task_id: Any, destination: Any = None, terminate: bool = False, signal: str = TERM_SIGNAME, **kwargs: Any
    ) -> Any:
        """As in Celery: what runs is left alone without `terminate`, which kills its process."""
        for job_id in maybe_list(task_id) or []:
            if terminate:
                records().cancel(job_id)
            elif records().field(job_id, "state") != "running":
                self._cancel(job_id)
        return super().revoke(task_id, destination, terminate, signal, **kwargs)
