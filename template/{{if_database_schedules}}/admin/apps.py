"""For Django's INSTALLED_APPS."""

from django.apps import AppConfig


class Schedules(AppConfig):
    """`admin` is the label of Django's own."""

    name = __package__ or ""
    label = "job_schedules"
    verbose_name = "Schedules"
    default_auto_field = "django.db.models.AutoField"
