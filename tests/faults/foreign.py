"""Another program that knows the broker and nothing else of the service."""

import subprocess

from ..contract.service import Service

CODE = """
from celery import Celery
from kombu import Queue

other = Celery(broker={url!r})
other.conf.task_queues = [Queue(name, no_declare=True) for name in ("critical", "default", "bulk")]
{options}
other.{call}
"""


def foreign(service: Service, call: str, options: str = "") -> None:
    """Call on a Celery app of its own."""
    url = service.environment[service.installed.stack.broker_variable]
    code = CODE.format(url=url, options=options, call=call)
    subprocess.run([str(service.installed.python), "-c", code], check=True, cwd=service.folder)
