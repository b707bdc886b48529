"""The table of `models.Memory`."""

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = (("django_celery_beat", "0019_alter_periodictasks_options"),)
    operations = (
        migrations.CreateModel(
            "Memory",
            [
                (
                    "schedule",
                    models.OneToOneField(
                        "django_celery_beat.periodictask",
                        models.CASCADE,
                        primary_key=True,
                        related_name="memory",
                        serialize=False,
                    ),
                ),
                ("declared", models.JSONField(null=True)),
                ("since", models.DateTimeField(null=True)),
                ("problem", models.TextField(blank=True)),
            ],
        ),
    )
