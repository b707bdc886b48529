"""The admin page among the processes of `dev`, with a password that is made up for this run and this machine."""

import secrets
from collections.abc import Callable

from ..settings import settings


def prepare(preferred: Callable[[int], int]) -> tuple[dict[str, str], dict[str, str]]:
    """The variables for its process, and rows for the overview; `preferred(port)` is that port or a free one."""
    config = settings()
    port = preferred(config.admin_port)
    variables, rows = {"ADMIN_PORT": str(port)}, {"schedules": f"http://127.0.0.1:{port}"}
    if not {"schedules_url", "admin_password"} & config.model_fields_set:  # a database of others has its own people
        variables["ADMIN_PASSWORD"] = secrets.token_urlsafe(12)
        rows["log in there as"] = f"admin, password {variables['ADMIN_PASSWORD']}"
    return variables, rows
