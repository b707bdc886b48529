"""Who may call, and how much they may send: holders of a bearer token, or with no token only this machine.

A job API without a lock is remote execution for whoever finds the port. Even on loopback a web page that a developer
visits could submit jobs through the browser, hence the look at `Host` and `Origin`. A browser shows its token once and
then holds a session, a cookie that opens the console and nothing else.
"""

import hmac
import secrets
import time
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException, Request
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ..documents import NotJsonError, decode
from ..engine import Engine
from ..ops.engine import engine
from ..settings import is_loopback, settings
from .problems import problem

OPEN = frozenset({"/health/live", "/health/ready"})
"""Probes come without a token, from the node's address."""
CONSOLE = "/console"
LOGIN = f"{CONSOLE}/login"
COOKIE = f"{(__package__ or '').partition('.')[0]}-console"
SESSION = 12 * 3600
"""Seconds until a browser asks for the token again."""
AGAIN = HTMLResponse('<!doctype html><html lang="en"><title>Console</title><meta http-equiv="refresh" content="0">')
"""For a link from another site, with which a browser sends no SameSite=Strict cookie: from here it does."""


class Access:
    """ASGI middleware that answers 401 or 403 in place of the application; what is added later is guarded too."""

    def __init__(self, app: ASGIApp, *, tokens: Sequence[str]) -> None:
        self.app = app
        self.tokens = [token.encode() for token in tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        refusal = self._check_token(scope, headers) if self.tokens else _check_local(scope, headers)
        if not refusal and _in_console(scope) and scope["method"] not in ("GET", "HEAD"):
            refusal = _check_origin(headers)
        return await (refusal or self.app)(scope, receive, send)

    def _check_token(self, scope: Scope, headers: Headers) -> Response | None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and matching(given.strip().encode("latin-1"), self.tokens):
            return None
        if _in_console(scope):
            session = HTTPConnection(scope).cookies.get(COOKIE, "")
            if scope["path"] == LOGIN or session_lives(session, self.tokens):
                return None
            if "text/html" in headers.get("accept", ""):
                followed = scope["method"] == "GET" and headers.get("sec-fetch-site") == "cross-site"
                return AGAIN if followed else RedirectResponse(LOGIN, 303)
        return problem(
            401,
            "Send a valid token: `Authorization: Bearer <token>`, one of API_TOKENS.",
            headers={"WWW-Authenticate": "Bearer"},
        )


def matching(given: bytes, tokens: Sequence[bytes]) -> bytes | None:
    """The token that was given; each is compared in full, so that the time taken tells nothing of any."""
    return next(iter([token for token in tokens if hmac.compare_digest(given, token)]), None)


def start_session(request: Request, response: Response, given: str) -> bool:
    """Let the browser that gave a valid token into the console; False if it is none.

    The cookie is signed with the token: the session ends with its time, or when the token leaves API_TOKENS.
    """
    token = matching(given.strip().encode(), [token.get_secret_value().encode() for token in settings().api_tokens])
    if token:
        said = f"{int(time.time()) + SESSION}.{secrets.token_urlsafe(12)}"
        encrypted = request.headers["origin"].startswith("https:")  # as the browser sees it, before any proxy
        signed = f"{said}.{_signature(said, token)}"
        response.set_cookie(COOKIE, signed, SESSION, path=CONSOLE, httponly=True, samesite="strict", secure=encrypted)
    return token is not None


def end_session(response: Response) -> Response:
    """Let the browser forget it."""
    response.delete_cookie(COOKIE, path=CONSOLE, httponly=True, samesite="strict")
    return response


def session_lives(session: str, tokens: Sequence[bytes]) -> bool:
    """Whether one of the tokens has signed this session, less than `SESSION` seconds ago."""
    said, _, signature = session.rpartition(".")
    signed = any(hmac.compare_digest(signature.encode(), _signature(said, token).encode()) for token in tokens)
    return signed and int(said.partition(".")[0]) > time.time()


def _signature(said: str, token: bytes) -> str:
    return hmac.new(token, f"console session {said}".encode(), "sha256").hexdigest()


def _in_console(scope: Scope) -> bool:
    return f"{scope['path']}/".startswith(f"{CONSOLE}/")


def _check_origin(headers: Headers) -> Response | None:
    """A form of another site, even one on this machine, must not act with the session of this one."""
    origin, host = headers.get("origin", ""), headers.get("host")
    if host and origin.partition("://")[2] == host:
        return None
    return problem(403, "The console takes forms of its own pages only. A proxy must pass the Host header on.")


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


async def limited_body(request: Request) -> bytes:
    """The request's body; answers 413 above MAX_BODY bytes."""
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
    return bytes(body)


async def json_body(request: Request) -> Any:
    """The request's JSON document; an empty body is `{}`. Answers 413 above MAX_BODY bytes, 400 if it is not JSON."""
    body = await limited_body(request)
    try:
        return decode(body) if body else {}
    except NotJsonError as error:
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
