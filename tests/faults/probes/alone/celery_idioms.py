"""Tasks as a Celery user writes them (test_celery_idioms.py)."""

from typing import Any

from celery import shared_task  # ty: ignore[missing-module-member]
from celery.exceptions import Ignore, Reject, Retry  # ty: ignore[import-not-found]

from ..runtime.task import JobTask  # ty: ignore[import-not-found]
from .probes import effects, tell  # ty: ignore[import-not-found]


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


@shared_task(bind=True, name="odd_wish")
def odd_wish(self: Any, wish: str, label: str) -> str:
    """What Celery's own methods are asked for by mistake."""
    tell(label)
    odd = self.app.signature("mark", (label,))
    match wish:
        case "replaced by nothing":
            raise self.replace(None)
        case "replaced by no task":
            raise self.replace(self.app.signature("no_such_task"))
        case "replaced in no queue":
            raise self.replace(odd.set(queue="no_such_queue"))
        case "again after nan":
            raise self.retry(countdown=float("nan"))
        case "again after ages":
            raise self.retry(countdown=1e30)
        case "again before now":
            raise self.retry(countdown=-5, max_retries=1)
        case "again in no queue":
            raise self.retry(queue="no_such_queue")
        case "again without end":
            raise self.retry(countdown=0, max_retries=None) if self.request.retries < 5 else ValueError("enough")
        case "state of its own":
            self.update_state(state="HALFWAY", meta={"at": 1})
        case "state without sense":
            self.update_state(state=None, meta=object())
        case "state of another job":
            self.update_state(task_id="another", state="SUCCESS", meta={"at": 1})
            raise ValueError("body")
    return label


@shared_task(bind=True, name="says_its_end")
def says_its_end(self: Any, state: str, ending: str, label: str) -> str:
    """`update_state` with an end, as many do before `raise Ignore`."""
    tell(label)
    self.update_state(state=state, meta=ValueError("said") if state == "FAILURE" else f"said {label}")
    if ending == "ignore":
        raise Ignore
    if ending == "error":
        raise ValueError("body")
    return label


@shared_task(name="native_values")
def native_values(*values: Any, fails_first: str = "") -> list[str]:
    """Values that JSON has no word for; the first run may fail."""
    if fails_first and not effects(fails_first):
        tell(fails_first)
        raise ValueError("first")
    return [repr(value) for value in values]


@shared_task(name="adds", bind=True)
def adds(self: Any, value: Any) -> Any:
    """A part that adds another."""
    self.add_to_chord(passes_on.s(f"{value} added"))
    return value


@shared_task(name="passes_on")
def passes_on(value: Any) -> Any:
    """A step of a workflow."""
    return value


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
