"""What the worker's main process must do when a pool process cannot: free the job of one that died, hand back on shutdown."""

from typing import Any

from billiard.exceptions import WorkerLostError
from celery.worker.request import Request

from .connection import UNAVAILABLE
from .record import records


class JobRequest(Request):
    """Celery's request, with the job's record kept in step."""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, (WorkerLostError, SystemExit)):
            try:
                records().release(self.id)  # the message goes back to the queue at once, and may run at once
            except UNAVAILABLE:
                pass  # it waits for the lease to end
        super().on_failure(exc_info, send_failed_event, return_ok)

    def _announce_cancelled(self, emit_retry: bool = True) -> None:
        self.hand_back()
        super()._announce_cancelled(emit_retry=False)

    def hand_back(self) -> None:
        """The run is stopped by us, not by the job: the same message will run again, without a try spent."""
        self.task.backend.finish(self._context, self.task, "queued", "handed_back")
