"""What must be known of a schedule beside what django-celery-beat's own tables hold."""

from typing import Any, ClassVar

from django.db import models
from django_celery_beat.models import PeriodicTask

Row = Any
"""A PeriodicTask, or a Memory: type checkers know nothing of what Django makes of their fields."""


class Memory(models.Model):
    """Made when a scheduler, or a declaration in jobs/, first meets the schedule."""

    schedule = models.OneToOneField(PeriodicTask, models.CASCADE, primary_key=True, related_name="memory")
    declared = models.JSONField(null=True)
    """As `SCHEDULES` had it last; None if it is an operator's own."""
    since = models.DateTimeField(null=True)
    """From when its next time counts, if it has not fired since."""
    problem = models.TextField(blank=True)
    """Why it was disabled, if no person did it."""

    objects: ClassVar[Any] = models.Manager()

    class Meta:
        app_label = "job_schedules"
