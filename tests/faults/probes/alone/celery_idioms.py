"""Tasks as a Celery user writes them (test_celery_idioms.py)."""

from typing import Any

from celery import shared_task  # ty: ignore[missing-module-member]

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
