"""What workflow code raises fails its task, whatever it is: the job is listed as stuck, with that error.

Temporal catches an Exception. After another error a workflow stands still and shows nothing; `SystemExit` also ends the
worker's event loop.
"""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from ..runtime.errors import describe


@contextmanager
def contained() -> Generator[None]:
    """Around what the workflow, a signal or an update does."""
    try:
        yield
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as error:
        if type(error).__module__.startswith("temporalio."):  # how it continues as new, or leaves a worker's memory
            raise
        raise RuntimeError(describe(error)) from None


class ContainedRunner(SandboxedWorkflowRunner):
    """Also for the tasks that a workflow makes."""

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """Whose activations raise Exceptions alone."""
        instance = super().create_instance(det)
        activate = instance.activate

        def contained_activate(act: Any) -> Any:
            try:
                return activate(act)
            except (SystemExit, KeyboardInterrupt) as error:
                raise RuntimeError(describe(error)) from None

        setattr(instance, "activate", contained_activate)  # noqa: B010
        return instance
