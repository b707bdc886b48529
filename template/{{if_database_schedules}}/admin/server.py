"""Serve the admin page: to this machine, or to others when it has a key, names, and somebody who may log in.

Django's own server is for development, and an admin page that is open while nobody has set a password is everybody's.
"""

import sys
from contextlib import suppress

import uvicorn
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.core.asgi import get_asgi_application
from django.urls import path
from uvicorn.config import STARTUP_FAILURE

from .. import logs
from ..celery import app
from ..settings import NotConfigured, is_loopback, settings
from . import PACKAGE, database
from .people import put_superuser

admin.site.site_header = admin.site.site_title = f"{PACKAGE.replace('_', ' ').title()}: schedules"
admin.site.index_title = "Schedules and people"
admin.site.site_url = None
admin.site.enable_nav_sidebar = False
admin.autodiscover()
urlpatterns = [path("", admin.site.urls)]


def serve(host: str | None, port: int | None) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises NotConfigured for an address beyond this machine that is not safe yet."""
    config = settings()
    host = host or config.admin_host
    if not is_loopback(host):
        for name, given in (("ADMIN_SECRET_KEY", config.admin_secret_key), ("ADMIN_HOSTS", config.admin_hosts)):
            if not given:
                raise NotConfigured(
                    f"{name} is not set, so the admin page does not listen on {host}. Set it, or listen on 127.0.0.1."
                )
    app.loader.import_default_modules()
    with database():
        if config.admin_password:
            put_superuser("admin", config.admin_password.get_secret_value())
        if not is_loopback(host) and not get_user_model().objects.filter(is_superuser=True, is_active=True).exists():
            raise NotConfigured(
                f"Nobody could log in, so the admin page does not listen on {host}. Make a person by "
                "`admin createsuperuser NAME`, or set ADMIN_PASSWORD for the user admin."
            )
    logs.configure()
    port = config.admin_port if port is None else port
    application = get_asgi_application()
    server = uvicorn.Server(
        uvicorn.Config(application, host=host, port=port, log_config=None, server_header=False, lifespan="off")
    )
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(STARTUP_FAILURE)
