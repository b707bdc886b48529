"""What arq's own command runs: `arq <package>.worker.WorkerSettings`; on all queues, without the supervisor.

arq makes a `Worker` of these settings; it must be ours, or none of the patterns holds.
"""

from dataclasses import replace
from socket import gethostname
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

import arq.worker
from arq.connections import RedisSettings
from arq.worker import func

from .jobs.resources import on_shutdown, on_startup
from .ops.worker import QueueWorker
from .runtime import sentinels
from .runtime.job import jobs
from .settings import settings

arq.worker.Worker = QueueWorker  # ty: ignore[invalid-assignment]


def _address() -> RedisSettings:
    """Our address in arq's terms, for `arq --check`."""
    url = settings().require_redis_url()
    common: dict[str, Any] = {"conn_timeout": 1, "ssl_check_hostname": True}
    if url.startswith("sentinel://"):
        nodes, login = sentinels.parse(url)
        login["database"] = login.pop("db")
        return RedisSettings(host=nodes, sentinel=True, sentinel_master=settings().sentinel_master, **login, **common)
    found = RedisSettings.from_dsn(url)  # which leaves most of the query out
    return replace(found, **common, ssl_ca_certs=dict(parse_qsl(urlsplit(url).query)).get("ssl_ca_certs"))


class WorkerSettings:
    """arq reads these attributes; queues and concurrency are in queues.py, times in settings.py."""

    functions = tuple(func(cast("Any", job.function), name=job.name) for job in jobs().values())
    on_startup = on_startup
    on_shutdown = on_shutdown
    redis_settings = _address()
    health_check_key = f"arq:health:{gethostname()}"  # of this host, for `arq --check`
