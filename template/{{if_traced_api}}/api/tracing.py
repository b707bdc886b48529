"""The span of each request, in which the jobs that it sends begin: without it a trace starts nowhere.

Probes, scrapes and the console, which only look, have none; nor do attributes tell what was in a body or a header.
"""

from typing import Any

from opentelemetry import trace
from opentelemetry.trace import StatusCode
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from ..tracing import request_span

LOOKS = ("/console", "/health/", "/metrics")


class RequestSpans:
    """ASGI middleware; attributes by https://opentelemetry.io/docs/specs/semconv/http/http-spans/."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(LOOKS):
            return await self.app(scope, receive, send)
        method = scope["method"]
        attributes: dict[str, Any] = {
            "http.request.method": method,
            "url.path": scope["path"],
            "url.scheme": scope["scheme"],
            "network.protocol.version": scope["http_version"],
        }
        if server := scope.get("server"):
            attributes |= {"server.address": server[0], "server.port": server[1] or 0}
        span = request_span(method, Headers(scope=scope), attributes)

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                status = message["status"]
                span.set_attribute("http.response.status_code", status)
                if status >= 500:
                    span.set_status(StatusCode.ERROR)
                    span.set_attribute("error.type", str(status))
            await send(message)

        with (
            trace.use_span(span, end_on_exit=True),
            bound_contextvars(trace_id=trace.format_trace_id(span.get_span_context().trace_id)),
        ):
            try:
                await self.app(scope, receive, sent)
            finally:
                if route := getattr(scope.get("route"), "path", None):
                    span.update_name(f"{method} {route}")
                    span.set_attribute("http.route", route)
