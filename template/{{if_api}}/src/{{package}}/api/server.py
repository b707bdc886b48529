"""Runs the API under uvicorn; refuses to listen where anybody could submit jobs without a token."""

import uvicorn

from .. import logs
from ..ops.engine import engine
from ..settings import NotConfigured, settings
from . import app
from .access import is_loopback


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
