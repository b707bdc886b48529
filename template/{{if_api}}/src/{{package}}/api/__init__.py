"""The HTTP API of the service: `uvicorn <package>.api:app`, or the `api` command, which also guards where it listens.

Handlers know only the `Engine` contract; they submit, look and answer, so that no request ever does a job's work.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from .. import logs
from ..ops.engine import engine
from ..settings import NotConfigured, settings
from . import jobs, operations, problems
from .access import Access, is_loopback


@asynccontextmanager
async def _configured(_: FastAPI) -> AsyncGenerator[None]:
    used = engine()  # raises NotConfigured: better no server than one that fails each request
    yield
    await used.close()


def create_app() -> FastAPI:
    """The application; in tests replace the engine by `app.dependency_overrides[current_engine]`."""
    app = problems.DocumentedApp(
        title=(__package__ or "").split(".")[0].replace("_", " ").title(),
        version="1",
        description="Submit background jobs, follow them, and operate the queues behind them.",
        lifespan=_configured,
    )
    app.add_middleware(Access, tokens=[token.get_secret_value() for token in settings().api_tokens])
    problems.install(app)
    for router in (jobs.router, operations.router, operations.probes):
        app.include_router(router)
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
    uvicorn.run(
        app,
        host=host,
        port=config.api_port if port is None else port,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=round(config.drain),  # a stream of events may not end by itself
    )
