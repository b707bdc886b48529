"""Tasks as a Celery user writes them (test_celery_idioms.py)."""

from typing import Any

from celery import shared_task  # ty: ignore[missing-module-member]
from celery.exceptions import Ignore, Reject, Retry  # ty: ignore[import-not-found]

from ..runtime.task import JobTask  # ty: ignore[import-not-found]
from .probes import tell  # ty: ignore[import-not-found]


@shared_task(bind=True, name="retries_itself", max_retries=2)
def retries_itself(self: Any, label: str) -> None:
    """Three runs."""
    tell(label)
    raise self.retry(exc=ValueError("again"), countdown=0.1)


@shared_task(
    name="retried_by_celery", autoretry_for=(ValueError,), max_retries=2, retry_backoff=False, default_retry_delay=0
)
def retried_by_celery(label: str) -> None:
    """Three runs."""
    tell(label)
    raise ValueError("again")


@shared_task(name="promises_broken", acks_late=False, rate_limit="1/s", serializer="pickle")
def promises_broken() -> None:
    """For `doctor`."""


class Hooks(JobTask):
    """Hooks that raise what their argument names: `<hook> <error>`."""

    abstract = True

    def before_start(self, task_id, args, kwargs):
        self.meet("before_start", args)

    def on_success(self, retval, task_id, args, kwargs):
        self.meet("on_success", args)

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        self.meet("on_failure", args)

    def after_return(self, status, retval, task_id, args, kwargs, einfo):
        self.meet("after_return", args)

    def meet(self, hook, args):
        raised = {
            "error": ValueError("hook"),
            "exit": SystemExit(3),
            "ignore": Ignore("one"),
            "ignore_bare": Ignore(),
            "reject": Reject("why"),
            "retry": Retry("later"),
        }
        if args and args[0] == hook:
            raise raised[args[1]]


@shared_task(base=Hooks, bind=True, name="hooked")
def hooked(self, hook, error, label):
    tell(label)
    if hook == "on_failure":
        raise ValueError("body")
    return label
