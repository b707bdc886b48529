"""The Celery application, where `celery -A` looks for it."""

from .runtime.app import app

__all__ = ["app"]
