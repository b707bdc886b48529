"""Who may call, and how much they may send: holders of a bearer token, or with no token only this machine.

A job API without a lock is remote execution for whoever finds the port. Even on loopback a web page that a developer
visits could submit jobs through the browser, hence the look at `Host` and `Origin`.
"""

import hmac
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException, Request
from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ..engine import Engine
from ..ops.engine import engine
from ..settings import settings
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


async def current_engine() -> Engine:
    """The process's engine; `async` so that FastAPI does not spend a thread on it."""
    return engine()


async def json_body(request: Request) -> Any:
    """The request's JSON document; an empty body is `{}`. Answers 413 above MAX_BODY bytes, 400 if it is not JSON."""
    limit = settings().max_body
    too_large = HTTPException(
        413, f"The body exceeds {limit} bytes (MAX_BODY). Store large input and pass a reference."
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large  # before the client has sent it all
    body = bytearray()
    async for chunk in request.stream():  # a chunked body declares no length
        body += chunk
        if len(body) > limit:
            raise too_large
    try:
        return from_json(bytes(body), allow_inf_nan=False) if body else {}
    except ValueError as error:
        raise HTTPException(400, f"The body is not JSON: {error}.") from None


CurrentEngine = Annotated[Engine, Depends(current_engine)]
JsonBody = Annotated[Any, Depends(json_body)]

JSON_BODY = {
    "requestBody": {
        "description": "The job's input; `GET /api/v1/jobs` shows the schema for each job.",
        "content": {"application/json": {"schema": {}}},
    }
}
"""For OpenAPI, which cannot see a body that a dependency reads."""
