"""The admin page: schedules in a database, which an operator changes without a deployment (django-celery-beat).

The smallest Django that can show it: log-in, sessions, and the tables of the schedules. Scheduler, API and command line
read the same tables through `ops/schedules.py`; workers and jobs know nothing of them.
"""

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any

from ..contract import BrokerUnavailable
from ..settings import settings

PACKAGE = (__package__ or "").partition(".")[0]
SESSION = 12 * 3600  # seconds until a browser has to log in again
_configuring = RLock()  # beat may come back here from its handler of SIGTERM


def setup() -> None:
    """Configure Django for this process; may be called again."""
    import django
    from django.conf import settings as configured

    with _configuring:
        if configured.configured:
            return
        config = settings()
        secret = config.admin_secret_key
        configured.configure(
            DATABASES={"default": _database(config.schedules_url.get_secret_value())},
            DEFAULT_AUTO_FIELD="django.db.models.AutoField",  # as django-celery-beat's own
            USE_TZ=True,
            TIME_ZONE="UTC",
            INSTALLED_APPS=[
                "django.contrib.admin.apps.SimpleAdminConfig",  # its pages are loaded by server.py alone
                "django.contrib.auth",
                "django.contrib.contenttypes",
                "django.contrib.messages",
                "django.contrib.sessions",
                "django.contrib.staticfiles",
                "django_celery_beat",
                f"{__package__}.apps.Schedules",
            ],
            MIDDLEWARE=[
                "django.middleware.security.SecurityMiddleware",
                "whitenoise.middleware.WhiteNoiseMiddleware",
                "django.contrib.sessions.middleware.SessionMiddleware",
                "django.middleware.common.CommonMiddleware",
                "django.middleware.csrf.CsrfViewMiddleware",
                "django.contrib.auth.middleware.AuthenticationMiddleware",
                "django.contrib.messages.middleware.MessageMiddleware",
                "django.middleware.clickjacking.XFrameOptionsMiddleware",
            ],
            TEMPLATES=[
                {
                    "BACKEND": "django.template.backends.django.DjangoTemplates",
                    "APP_DIRS": True,
                    "OPTIONS": {
                        "context_processors": [
                            "django.template.context_processors.request",
                            "django.contrib.auth.context_processors.auth",
                            "django.contrib.messages.context_processors.messages",
                        ]
                    },
                }
            ],
            AUTH_PASSWORD_VALIDATORS=[
                {"NAME": f"django.contrib.auth.password_validation.{name}"}
                for name in ("MinimumLengthValidator", "CommonPasswordValidator", "UserAttributeSimilarityValidator")
            ],
            ROOT_URLCONF=f"{__package__}.server",
            STATIC_URL="/static/",
            WHITENOISE_USE_FINDERS=True,  # the packages' own files: nothing to collect
            # One process alone may make up a key, and its sessions end with it; `server.py` wants one for others.
            SECRET_KEY=secret.get_secret_value() if secret else secrets.token_urlsafe(48),
            ALLOWED_HOSTS=["127.0.0.1", "localhost", "[::1]", *config.admin_hosts],
            CSRF_TRUSTED_ORIGINS=[f"https://{host}" for host in config.admin_hosts],  # TLS ends before us
            SESSION_COOKIE_SECURE=bool(config.admin_hosts),
            CSRF_COOKIE_SECURE=bool(config.admin_hosts),
            SESSION_COOKIE_NAME=f"{PACKAGE}-admin",
            SESSION_COOKIE_AGE=SESSION,
            SESSION_COOKIE_SAMESITE="Strict",
            LOGGING_CONFIG=None,  # logs.py does it
        )
        django.setup()


def _database(url: str) -> dict[str, Any]:
    import dj_database_url

    found: dict[str, Any] = {**dj_database_url.parse(url.replace("+psycopg", "", 1))}
    if found["ENGINE"] == "django.db.backends.sqlite3":
        Path(found["NAME"]).parent.mkdir(parents=True, exist_ok=True)
        pragmas = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL"
        found["OPTIONS"] = {"timeout": 5, "transaction_mode": "IMMEDIATE", "init_command": pragmas}
    else:
        found["OPTIONS"] = {"connect_timeout": 2, **found.get("OPTIONS", {})}  # seconds
    return found


@contextmanager
def database() -> Generator[ModuleType]:
    """The module `rows`, over a connection of this block's own; the tables are made or brought up to date if need be.

    Raises BrokerUnavailable if the database does not answer.
    """
    setup()
    from django.db import InterfaceError, OperationalError, connection

    try:
        _bring_up_to_date()
        yield import_module(".rows", __package__)
    except (InterfaceError, OperationalError) as error:
        why = str(error).strip().partition("\n")[0]
        raise BrokerUnavailable(f"the database of the schedules does not answer ({why}); try again later") from error
    finally:
        connection.close()


@cache
def _bring_up_to_date() -> None:
    from django.core.management import call_command
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor

    from ..runtime.connection import redis

    def plan() -> list[object]:
        executor = MigrationExecutor(connection)
        return executor.migration_plan(executor.loader.graph.leaf_nodes())

    if plan():
        with redis().lock("schedules:migrating", timeout=120):  # seconds; others wait
            if plan():
                call_command("migrate", verbosity=0, interactive=False)
                import_module(".rows", __package__).synchronise()
