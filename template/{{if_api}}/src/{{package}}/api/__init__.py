"""The HTTP API of the service: `uvicorn <package>.api:app`, or the `api` command, which also guards where it listens.

Handlers know only the `Engine` contract; they submit, look and answer, so that no request ever does a job's work.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from ..ops.engine import engine
from ..settings import settings
from . import jobs, operations, problems
from .access import Access


@asynccontextmanager
async def _configured(_: FastAPI) -> AsyncGenerator[None]:
    engine()  # raises NotConfigured: better no server than one that fails each request
    yield


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
