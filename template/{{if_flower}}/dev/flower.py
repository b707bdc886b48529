"""Flower among the processes of `dev`; whoever has set no login gets one made up, since it does not start without."""

import secrets
from collections.abc import Callable

from ..settings import settings


def prepare(preferred: Callable[[int], int]) -> tuple[dict[str, str], dict[str, str]]:
    """The variables for its process, and rows for the overview; `preferred(port)` is that port or a free one."""
    config = settings()
    port = preferred(config.flower_port)
    variables, rows = {"FLOWER_PORT": str(port)}, {"Flower": f"http://127.0.0.1:{port}"}
    if not config.flower_basic_auth:
        password = secrets.token_urlsafe(12)
        variables["FLOWER_BASIC_AUTH"] = f"dev:{password}"
        rows["Flower's login"] = f"dev, password {password}"
    return variables, rows
