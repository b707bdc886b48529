"""What the jobs of one worker share through `ctx`: opened when it starts, closed when it stops.

A client per job would open a connection per job, and leave it open when the job fails.
"""

from typing import TypedDict

import httpx
from arq import ArqRedis


class Context(TypedDict):
    """A job's first argument. The first three entries are arq's, the others those of `on_startup`."""

    job_id: str
    job_try: int
    redis: ArqRedis
    http: httpx.AsyncClient


async def on_startup(ctx: Context) -> None:
    """Runs before the first job."""
    ctx["http"] = httpx.AsyncClient(timeout=10)


async def on_shutdown(ctx: Context) -> None:
    """Runs after the last job."""
    await ctx["http"].aclose()
