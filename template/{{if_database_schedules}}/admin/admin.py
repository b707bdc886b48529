"""The page of the schedules: what no scheduler could fire is refused where it is written.

django-celery-beat's own page takes any name of a task, any queue and any arguments, and shows options that only its own
scheduler heeds.
"""

from collections.abc import Iterable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django_celery_beat import models
from pydantic import ValidationError as WrongPayload

from ..celery import app
from ..contract import ContractError
from ..ops.schedules import fire
from ..queues import QUEUES
from ..runtime.connection import server_time
from ..runtime.task import JobTask
from . import rows, times
from .models import Row

for model in (
    models.ClockedSchedule,
    models.CrontabSchedule,
    models.IntervalSchedule,
    models.PeriodicTask,
    models.SolarSchedule,
):
    admin.site.unregister(model)


class ScheduleForm(forms.ModelForm):
    """A schedule in the words of jobs/."""

    task = forms.ChoiceField(label="Job")
    when = forms.CharField(
        label="When (UTC)",
        help_text="A crontab (minute, hour, day of month, month, day of week) such as 0 6 * * mon, or every 30 seconds",
    )
    kwargs = forms.JSONField(
        label="Payload",
        required=False,
        help_text="The job's arguments by name, as JSON",
        widget=forms.Textarea({"rows": 4, "cols": 60}),
    )
    queue = forms.ChoiceField(required=False, help_text="Another queue than the job's own")

    class Meta:
        model = models.PeriodicTask
        fields = ("name", "task", "kwargs", "queue", "enabled", "description")

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        row = self.instance
        jobs = sorted(name for name, task in app.tasks.items() if isinstance(task, JobTask) and task.arguments)
        self.fields["task"].choices = [(name, name) for name in jobs]
        self.fields["queue"].choices = [("", "the job's own"), *((queue.name, queue.name) for queue in QUEUES)]
        self.initial |= {"when": times.of(row), "kwargs": rows.payload(row) or {}} if row.pk else {"kwargs": {}}

    def clean_when(self) -> str:
        try:
            return times.written(times.read(self.cleaned_data["when"]))
        except ValueError as error:
            raise ValidationError(str(error)) from error

    def clean_kwargs(self) -> str:
        payload = self.cleaned_data["kwargs"] or {}
        task = app.tasks.get(self.cleaned_data.get("task", ""))
        if not isinstance(payload, dict):
            raise ValidationError('Give an object with the arguments\' names, for example {"day": "today"}')
        try:
            if isinstance(task, JobTask):
                task.bind_arguments((), payload)
        except WrongPayload as error:
            wrong = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
            raise ValidationError([f"does not fit {task.name}: {each}" for each in wrong]) from error
        return forms.JSONField().prepare_value(payload)

    def validate_unique(self) -> None:
        if not self.errors:  # else there may be no times yet, which django-celery-beat would also complain of
            super().validate_unique()

    def clean(self) -> dict[str, Any] | None:
        if not self.errors:
            times.put(self.cleaned_data["when"], self.instance)
        return super().clean()


@admin.register(models.PeriodicTask)
class ScheduleAdmin(admin.ModelAdmin):
    """List, change, pause, resume and run schedules."""

    form = ScheduleForm
    fields = ("name", "task", "when", "kwargs", "queue", "enabled", "description", "problem", "last_run_at", "runs")
    readonly_fields = ("problem", "last_run_at", "runs")
    list_display = ("name", "task", "when", "enabled", "last_run_at", "runs", "problem")
    list_filter = ("enabled", "task")
    list_select_related = ("crontab", "interval", "memory")
    search_fields = ("name", "task", "description")
    actions = ("pause", "resume", "run_now")

    @admin.display(description="when (UTC)")
    def when(self, row: Row) -> str:
        return times.of(row)

    @admin.display(description="runs", ordering="total_run_count")
    def runs(self, row: Row) -> int:
        return row.total_run_count

    @admin.display
    def problem(self, row: Row) -> str:
        return rows.problem(row) if row.pk else "-"

    def get_readonly_fields(self, request: HttpRequest, obj: Row = None) -> Any:
        return (*self.readonly_fields, "name") if obj and rows.is_declared(obj) else self.readonly_fields

    def has_delete_permission(self, request: HttpRequest, obj: Row = None) -> bool:
        """One that jobs/ declares would come back: pause it, or take it out there."""
        return not (obj and rows.is_declared(obj)) and super().has_delete_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: Row, form: forms.ModelForm, change: bool) -> None:
        last_run_at = obj.last_run_at  # which django-celery-beat forgets of one that is disabled
        super().save_model(request, obj, form, change)
        models.PeriodicTask.objects.filter(pk=obj.pk).update(last_run_at=last_run_at)
        if {"when", "enabled", "task"} & {*form.changed_data}:
            rows.count_from(obj.name, server_time())

    @admin.action(description="Pause", permissions=["change"])
    def pause(self, request: HttpRequest, chosen: Iterable[Row]) -> None:
        for row in chosen:
            rows.pause(row.name)

    @admin.action(description="Resume", permissions=["change"])
    def resume(self, request: HttpRequest, chosen: Iterable[Row]) -> None:
        for row in chosen:
            rows.resume(row.name)

    @admin.action(description="Run now", permissions=["change"])
    def run_now(self, request: HttpRequest, chosen: Iterable[Row]) -> None:
        for row in chosen:
            try:
                self.message_user(request, f"{row.name}: job {fire(row.name).id}")
            except ContractError as error:
                self.message_user(request, str(error), messages.ERROR)
