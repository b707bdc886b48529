"""What differs between stacks: where the broker is, and how a message that no client sends gets into a queue.

Everything else in this folder, but for the probe jobs, is the same for every stack.
"""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

CHOICES = ("rabbitmq", "flower", "database")
"""Answers beside the stack for which there are files of tests, `test_<choice>*.py`."""

ROOT = Path(__file__).parents[2]
PROBES = Path(__file__).parent / "probes"
FAULTS = ROOT / "tests" / "faults" / "probes"

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

INJECT_INTO_RABBITMQ = """
import json, pathlib, pickle, sys, uuid
import amqp, kombu

class Bomb:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("unpickled").resolve(),)

url, queue, kind, job = sys.argv[1:]
tag = str(uuid.uuid4())
embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
body, content_type, encoding = json.dumps([[], {}, embed]).encode(), "application/json", "utf-8"
if kind == "pickled":
    body, content_type, encoding = pickle.dumps(([Bomb()], {}, {})), "application/x-python-serialize", "binary"
headers = {"lang": "py", "task": job, "id": tag, "root_id": tag, "parent_id": None, "group": None, "retries": 0}
message = amqp.Message(body[: len(body) // 2] if kind == "truncated" else body, content_type=content_type,
                       content_encoding=encoding, application_headers=headers, correlation_id=tag, delivery_mode=2)
with kombu.Connection(url, transport_options={"confirm_publish": True}) as connection:
    connection.default_channel.basic_publish(message, exchange="", routing_key=queue)
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


INJECT_INTO_TEMPORAL = """
import asyncio, pathlib, pickle, sys, uuid
from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.common import RawValue

class Bomb:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("unpickled").resolve(),)

async def main():
    url, queue, kind, job = sys.argv[1:]
    client = await Client.connect(url)
    encoding, data = b"json/plain", b"{}"
    if kind == "pickled":
        encoding, data = b"binary/pickle", pickle.dumps(Bomb())
    elif kind == "truncated":
        data = b'{"label": "trunc'
    raw = RawValue(Payload(metadata={"encoding": encoding}, data=data))
    started = await client.start_workflow(job, raw, id=f"{job}:{uuid.uuid4().hex}", task_queue=queue)
    print(started.id, flush=True)
    await asyncio.sleep(0.05)  # temporalio/sdk-python#300: a client that ends at once crashes

asyncio.run(main())
"""


@dataclass(frozen=True)
class Stack:
    """What the tests must know of one engine."""

    name: str
    """As `--stack` has it."""
    answers: Mapping[str, str]
    """What makes a service of this kind."""
    broker_url: str
    """With `{port}`; given to the service as `broker_variable`."""
    broker_variable: str
    injector: str
    """Runs in the service's own environment."""
    beside: Mapping[str, str] = field(default_factory=dict)
    """Other variables, with `{next}`: the port after the broker's."""
    bad_setting: tuple[str, str] = ("redis_url", "amqp://host")
    """An address of a broker that cannot be one."""
    programs: Mapping[str, str] = field(default_factory=dict)
    """What the service finds by a variable, and the script that prints where it is."""
    meaningless: Mapping[str, str] = field(default_factory=dict)
    """Cases of this suite that the stack cannot have: a pattern of their ids (`*` allowed, `[` as it is) → why."""

    @property
    def probes(self) -> dict[str, Path]:
        """The jobs that the tests submit, written in this stack's own way, by their names in jobs/."""
        own = f"{self.answers['stack']}.py"
        of_stack = {path.name: path for path in FAULTS.glob(f"{self.answers['stack']}_*.py")}
        return {"probes.py": PROBES / own, "faults.py": FAULTS / own, "endings.py": FAULTS / "endings.py"} | of_stack

    def environment(self, port: int) -> dict[str, str]:
        programs = {variable: program(script) for variable, script in self.programs.items()}
        beside = {variable: url.format(next=port + 1) for variable, url in self.beside.items()}
        return {**programs, **beside, self.broker_variable: self.broker_url.format(port=port)}

    def why_meaningless(self, test: str) -> str | None:
        """The reason, by the id of a test (`test_file.py::test_name[case]`)."""
        for pattern, reason in self.meaningless.items():
            if matches(test, pattern):
                return reason
        return None

    def inject(self, python: Path, folder: Path, port: int, *, kind: str, queue: str, job: str) -> str:
        """Put a "pickled" or "truncated" message, or one for an "unknown" job, into a queue; returns its id.

        Whoever unpickles the first makes a file named `unpickled` in the folder.
        """
        address = self.broker_url.format(port=port)
        command = [str(python), "-c", self.injector, address, queue, kind, job]
        return subprocess.check_output(command, cwd=folder, text=True).strip()


@cache
def program(script: str) -> str:
    done = subprocess.run(["sh", str(ROOT / script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def matches(test: str, pattern: str) -> bool:
    return fnmatchcase(test, pattern.replace("[", "[[]"))


STACKS = {
    stack.name: stack
    for stack in (
        Stack(
            name="celery",
            answers={"stack": "celery"},
            broker_url="redis://127.0.0.1:{port}/0",
            broker_variable="REDIS_URL",
            injector=INJECT_INTO_CELERY,
        ),
        Stack(
            name="rabbitmq",
            answers={"stack": "celery", "broker": "rabbitmq"},
            broker_url="amqp://guest:guest@127.0.0.1:{port}/",
            broker_variable="RABBITMQ_URL",
            beside={"REDIS_URL": "redis://127.0.0.1:{next}/0"},
            injector=INJECT_INTO_RABBITMQ,
            bad_setting=("rabbitmq_url", "redis://host"),
            programs={"RABBITMQ_SERVER": "scripts/rabbitmq.sh"},
            meaningless={
                "test_celery_redis.py::*": "its messages do not pass Redis, which keeps the records alone",
                "test_celery_names.py::test_a_strange_message_*": "they are messages of Celery's Redis transport",
            },
        ),
        Stack(
            name="arq",
            answers={"stack": "arq"},
            broker_url="redis://127.0.0.1:{port}/0",
            broker_variable="REDIS_URL",
            injector=INJECT_INTO_ARQ,
        ),
        Stack(
            name="temporal",
            answers={"stack": "temporal"},
            broker_url="127.0.0.1:{port}",
            broker_variable="TEMPORAL_ADDRESS",
            injector=INJECT_INTO_TEMPORAL,
            bad_setting=("temporal_address", "http://host"),
            programs={"TEMPORAL_CLI": "scripts/temporal.sh"},
            meaningless={
                "test_settings.py::test_times_*[hard_limit-]": "no lock has a time to live: its holder lives or not",
                "test_alerts.py::test_a_fault_*[killed scheduler]": "the server fires schedules, whoever declared them",
                "test_parts.py::*": "it has no chains and chords; test_temporal_cancels.py has its constructs",
                "test_schedules.py::test_after_*": "its server fires schedules by its own clock",
                "test_sentinel.py::*": "it needs no Redis",
                "test_waiting.py::*": "its server counts the rate (`per_second`) and wakes what waits",
                "test_answers.py::*": "it needs no Redis",
                "test_outages.py::test_*redis*": "it needs no Redis",
                "test_state.py::*": "its server keeps the state, and workflows replay",
                "test_tracing.py::test_of_a_flood_*": "its dev server starts fewer jobs a second than traces are kept",
            },
        ),
    )
}
