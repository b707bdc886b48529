"""Who may call: holders of a bearer token, or with no token configured only this machine.

A job API without a lock is remote execution for whoever finds the port. Even on loopback a web page that a developer
visits could submit jobs through the browser, hence the look at `Host` and `Origin`.
"""

import hmac
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from .problems import problem

OPEN = frozenset({"/health/live", "/health/ready"})
"""Probes come without a token, from the node's address."""


def is_loopback(host: str | None) -> bool:
    """Whether a host name or address means this machine and no other."""
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


class Access:
    """ASGI middleware that answers 401 or 403 in place of the application; what is added later is guarded too."""

    def __init__(self, app: ASGIApp, *, tokens: Sequence[str]) -> None:
        self.app = app
        self.tokens = [token.encode() for token in tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        refusal = self._check_token(headers) if self.tokens else _check_local(scope, headers)
        return await (refusal or self.app)(scope, receive, send)

    def _check_token(self, headers: Headers) -> Response | None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Compared with each token in full, so that the time taken tells nothing of any.
        matches = [hmac.compare_digest(given.strip().encode("latin-1"), token) for token in self.tokens]
        if scheme.lower() == "bearer" and any(matches):
            return None
        return problem(
            401,
            "Send a valid token: `Authorization: Bearer <token>`, one of API_TOKENS.",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _check_local(scope: Scope, headers: Headers) -> Response | None:
    server = scope.get("server") or ("", None)
    named = [f"//{headers.get('host', '')}", *headers.getlist("origin")]
    if is_loopback(server[0]) and all(map(_on_loopback, named)):
        return None
    return problem(403, "No API_TOKENS are set, so only this machine is served. Set API_TOKENS to serve others.")


def _on_loopback(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname)
    except ValueError:
        return False
