"""Flower, Celery's own web page, behind a login on every path, read only, and remembering what it saw.

As it comes it listens on all interfaces without a login; with one, /metrics and more stay open; and its buttons act on
workers past the records: what was revoked runs after all when they restart, a queue that one left is read by nobody.
"""

import hmac
import logging
import signal
from base64 import b64decode
from typing import Any

from flower.app import Flower
from flower.inspector import Inspector
from flower.options import options
from flower.urls import settings as flower_settings
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.routing import Router
from tornado.web import RequestHandler, stream_request_body

from .. import logs
from ..celery import app
from ..settings import NotConfigured, settings
from .engine import engine
from .events import HIDDEN

OPEN = "/healthcheck"
"""Says that the process answers, and no more: probes come without a login."""
RESULTS = "/api/task/result/"
SAVE_EVERY = 30  # seconds; what a kill -9 may cost
REFUSED = {401: "Flower asks for a login", 403: "results are shown by the API and the command `result`"}


def serve() -> None:
    """Serve until SIGTERM or Ctrl-C, then save. Raises NotConfigured without a login, on loopback too."""
    config = settings()
    if not config.flower_basic_auth:
        raise NotConfigured(
            "FLOWER_BASIC_AUTH is not set, so Flower does not start: whoever reaches its port would see every job. "
            "Set it to name:password, or use the `dev` command, which makes one up."
        )
    engine()  # raises NotConfigured before anything listens; imports the jobs
    logs.configure()
    logging.getLogger("tornado.access").setLevel("WARNING")  # refused requests, not each refresh of a page
    for name, value in {
        "address": config.flower_address,
        "port": config.flower_port,
        "basic_auth": [login.get_secret_value() for login in config.flower_basic_auth],
        "db": str(config.flower_db),
        "persistent": True,
        "state_save_interval": SAVE_EVERY * 1000,
        "max_tasks": config.flower_max_tasks,
        "read_only": True,
        "enable_events": False,  # the workers send them; no need to tell them again every 5 s
    }.items():
        setattr(options, name, value)
    try:
        config.flower_db.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        page = Page(capp=app, options=options, **flower_settings)
        page.events.save_state()
    except OSError as error:
        raise NotConfigured(f"FLOWER_DB={config.flower_db} cannot be written: {error}") from error
    try:
        page.start_http_server()
        if config.flower_metrics_port:
            HTTPServer(OnlyMetrics(page)).listen(config.flower_metrics_port, config.flower_address)
    except OSError as error:
        ports = f"FLOWER_PORT={config.flower_port}, FLOWER_METRICS_PORT={config.flower_metrics_port}"
        raise NotConfigured(f"Flower cannot listen on {config.flower_address}, {ports}: {error.strerror}") from error
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: page.io_loop.add_callback_from_signal(page.stop))
    page.start()


class Page(Flower):
    """Flower's application; what it serves is refused here, before its handlers, so that none can be forgotten."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.inspector = DiscreetInspector(self.io_loop, self.capp, self.options.inspect_timeout / 1000)
        self.logins = [login.encode() for login in self.options.basic_auth]

    def find_handler(self, request: HTTPServerRequest, **given: Any) -> Any:
        """Tornado's way from a request to its handler."""
        if request.path != OPEN and not self._knows(request):
            return self.get_handler_delegate(request, Refusal, {"status": 401})
        if request.path.startswith(RESULTS):
            return self.get_handler_delegate(request, Refusal, {"status": 403})
        return super().find_handler(request, **given)

    def _knows(self, request: HTTPServerRequest) -> bool:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        try:
            shown = b64decode(given.strip(), validate=True)
        except ValueError:
            return False
        return scheme.lower() == "basic" and any(hmac.compare_digest(shown, login) for login in self.logins)


@stream_request_body
class Refusal(RequestHandler):
    """What a stranger gets on any path, and what anybody gets where results would be."""

    def initialize(self, status: int) -> None:
        self.status = status

    def check_xsrf_cookie(self) -> None:
        """Refused in any case, and with the right status."""

    def prepare(self) -> None:
        self.set_status(self.status)
        if self.status == 401:
            self.set_header("WWW-Authenticate", 'Basic realm="flower"')
        self.finish(f"{self.status}: {REFUSED[self.status]}\n")

    def data_received(self, chunk: bytes) -> None:
        """Thrown away: Tornado would keep 100 MB of a stranger's body in memory first."""


class OnlyMetrics(Router):
    """A port of its own for Prometheus that leads to nothing else; it asks for the same login."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def find_handler(self, request: HTTPServerRequest, **given: Any) -> Any:
        """None answers 404."""
        return self.page.find_handler(request, **given) if request.path == "/metrics" else None


class DiscreetInspector(Inspector):
    """Asks workers what they hold, and forgets with what arguments."""

    def _on_update(self, workername: str, method: str, response: Any) -> None:
        if method in self.task_inspect_methods:
            for entry in response:
                if isinstance(entry, dict):
                    entry.get("request", entry).update(args=HIDDEN, kwargs=HIDDEN)
        super()._on_update(workername, method, response)
