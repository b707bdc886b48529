"""What differs between stacks: where the broker is, and how a message that no client sends gets into a queue.

Everything else in this folder, but for the probe jobs, is the same for every stack.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

PROBES = Path(__file__).parent / "probes"

# `kind` and `job` by argument; prints the id under which the dead letter is expected, if the message has one.
INJECT_INTO_CELERY = """
import base64, json, pathlib, pickle, sys, uuid
import redis

class Bomb:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("unpickled").resolve(),)

url, queue, kind, job = sys.argv[1:]
tag = str(uuid.uuid4())
embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
body, content_type = json.dumps([[], {}, embed]).encode(), "application/json"
if kind == "pickled":
    body, content_type = pickle.dumps(([Bomb()], {}, {})), "application/x-python-serialize"
envelope = json.dumps({
    "body": base64.b64encode(body).decode(),
    "content-encoding": "binary" if kind == "pickled" else "utf-8",
    "content-type": content_type,
    "headers": {"lang": "py", "task": job, "id": tag, "root_id": tag, "parent_id": None, "group": None, "retries": 0},
    "properties": {"correlation_id": tag, "delivery_mode": 2, "delivery_tag": tag, "body_encoding": "base64",
                   "priority": 0, "delivery_info": {"exchange": "", "routing_key": queue}},
})
redis.Redis.from_url(url).lpush(queue, envelope[: len(envelope) // 2] if kind == "truncated" else envelope)
print(tag)
"""

INJECT_INTO_ARQ = """
import json, pathlib, pickle, sys, time, uuid
import redis

class Bomb:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("unpickled").resolve(),)

url, queue, kind, job = sys.argv[1:]
tag, now = uuid.uuid4().hex, int(time.time() * 1000)
message = {"t": None, "f": job, "a": [], "k": {}, "et": now}
data = json.dumps(message).encode()
if kind == "pickled":
    data = pickle.dumps({**message, "a": (Bomb(),)})
client = redis.Redis.from_url(url)
client.set(f"arq:job:{tag}", data[: len(data) // 2] if kind == "truncated" else data)
client.zadd(f"arq:queue:{queue}", {tag: now})
print(tag)
"""


@dataclass(frozen=True)
class Stack:
    """What the tests must know of one engine."""

    name: str
    broker_url: str
    """With `{port}`; given to the service as `broker_variable`."""
    broker_variable: str
    injector: str
    """Runs in the service's own environment."""

    @property
    def probes(self) -> Path:
        """The jobs that the tests submit, written in this stack's own way."""
        return PROBES / f"{self.name}.py"

    def environment(self, port: int) -> dict[str, str]:
        return {self.broker_variable: self.broker_url.format(port=port)}

    def inject(self, python: Path, folder: Path, port: int, *, kind: str, queue: str, job: str) -> str:
        """Put a "pickled" or "truncated" message, or one for an "unknown" job, into a queue; returns its id.

        Whoever unpickles the first makes a file named `unpickled` in the folder.
        """
        address = self.broker_url.format(port=port)
        command = [str(python), "-c", self.injector, address, queue, kind, job]
        return subprocess.check_output(command, cwd=folder, text=True).strip()


STACKS = {
    stack.name: stack
    for stack in (
        Stack(
            name="celery",
            broker_url="redis://127.0.0.1:{port}/0",
            broker_variable="REDIS_URL",
            injector=INJECT_INTO_CELERY,
        ),
        Stack(
            name="arq",
            broker_url="redis://127.0.0.1:{port}/0",
            broker_variable="REDIS_URL",
            injector=INJECT_INTO_ARQ,
        ),
    )
}
