"""The HTTP API of the service: `uvicorn <package>.api:app`, or the `api` command, which also guards where it listens.

Handlers know only the `Engine` contract; they submit, look and answer, so that no request ever does a job's work.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from socket import socket

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE

from .. import logs, telemetry
from ..ops.engine import engine
from ..settings import NotConfigured, is_loopback, settings
from . import console, jobs, operations, problems
from .access import Access


@asynccontextmanager
async def _configured(served: FastAPI) -> AsyncGenerator[None]:
    used = engine()  # raises NotConfigured: better no server than one that fails each request
    async with console.watching(used) as served.state.watch:
        yield
    await used.close()
    await asyncio.to_thread(telemetry.leave)  # uvicorn ends by the signal that it got, which runs no exit handlers


def create_app() -> FastAPI:
    """The application; in tests replace the engine by `app.dependency_overrides[current_engine]`."""
    app = problems.DocumentedApp(
        title=(__package__ or "").split(".")[0].replace("_", " ").title(),
        version="1",
        description="Submit background jobs, follow them, and operate the queues behind them.",
        lifespan=_configured,
        telemetry={"tracing": not telemetry.tracing},  # FastAPI's own spans would double ours
    )
    app.add_middleware(Access, tokens=[token.get_secret_value() for token in settings().api_tokens])
    if telemetry.tracing:
        app.add_middleware(import_module(".tracing", __package__).RequestSpans)
    problems.install(app)
    for router in (jobs.router, operations.router, operations.probes, console.router):
        app.include_router(router)
    if find_spec(".approvals", __package__):  # where jobs can wait for a person
        app.include_router(import_module(".approvals", __package__).router)
    return app


app = create_app()


def serve(host: str | None, port: int | None) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises NotConfigured for an address beyond this machine without API_TOKENS."""
    config = settings()
    host = host or config.api_host
    if not config.api_tokens and not is_loopback(host):
        raise NotConfigured(
            f"API_TOKENS is not set, so the API does not listen on {host}. "
            "Set API_TOKENS to one or more secrets, or listen on 127.0.0.1."
        )
    engine()  # raises NotConfigured before anything listens
    logs.configure()
    serving = uvicorn.Config(
        app,
        host=host,
        port=config.api_port if port is None else port,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=round(config.drain),  # a stream of events may not end by itself
    )
    server = _Server(serving)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(STARTUP_FAILURE)


class _Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        app.state.watch.closing.set()  # an open page of the console would hold it up for the whole drain time
        await super().shutdown(sockets)
