"""`doctor` on workflow code: what differs in a replay is named line by line, and nothing else is.

Collected with `--stack temporal` (conftest.py).
"""

import pytest

from .installed import Installed
from .processes import until
from .service import Service, running

WRONG = """
import asyncio
import os
import random
import time
import urllib.request
import uuid
from collections import defaultdict
from datetime import date, datetime, timedelta
from pathlib import Path
from threading import Thread

import rich  # rich is loaded anew
from temporalio import workflow
from temporalio.common import RetryPolicy

from .jobs import fulfilment  # fulfilment is loaded anew

with workflow.unsafe.imports_passed_through():
    import httpx

    from .jobs.orders import Order, process_order
    from .runtime import JobWorkflow
    from .settings import settings

ONCE = RetryPolicy(maximum_attempts=1)
SEEN = {}
COUNTS: defaultdict = defaultdict(int)
LATEST = None


def price(order):
    return random.random() * order.amount_cents  # random.random is another value


@workflow.defn
class First(JobWorkflow):
    def __init__(self):
        super().__init__()
        self.began = time.time()  # time.time is another time

    @workflow.run
    async def run(self, order: Order) -> None:
        if date.today() > date(2026, 1, 1):  # date.today is another time
            price(order)
        self.loop = asyncio.get_running_loop()
        await self.loop.run_in_executor(None, len, "")  # run_in_executor leaves the workflow
        await asyncio.to_thread(len, "")  # asyncio.to_thread leaves
        Thread(target=print).start()  # Thread leaves
        await process_order(order)  # process_order runs in the workflow itself
        await workflow.execute_activity("a", order)  # has no timeout
        await workflow.execute_activity("a", start_to_close_timeout=timedelta(1), retry_policy=ONCE)  # has one try
        await workflow.start_activity(  # has one try
            "a", schedule_to_close_timeout=timedelta(1), retry_policy=RetryPolicy(maximum_attempts=1)
        )
        kinds = {order.tier, "standard"}
        for kind in kinds:  # the set kinds
            await self.step(process_order, kind)
        await asyncio.gather(*[self.step(process_order, kind) for kind in set("abc")])  # the set set('abc')
        tasks = [asyncio.ensure_future(self.part())]
        for task in asyncio.as_completed(tasks):  # asyncio.as_completed answers
            await task
        await asyncio.wait(tasks)  # asyncio.wait answers

    async def part(self):
        time.sleep(1)  # time.sleep stops all workflows
        COUNTS["a"] += 1  # COUNTS is shared
        SEEN.update(a=1)  # SEEN is shared


@workflow.defn(name="second", sandboxed=False)
class Second:
    @workflow.run
    async def run(self) -> str:
        global LATEST  # LATEST is shared
        LATEST = datetime.now().isoformat()  # datetime.now is another time
        now = datetime.utcnow()  # doctor: ok
        async with httpx.AsyncClient() as http:  # httpx.AsyncClient is I/O
            await http.get("http://localhost")
        urllib.request.urlopen("http://localhost")  # urllib.request.urlopen is I/O
        with open("file") as file:  # open is I/O
            file.read()
        return Path("more.txt").read_text() + str(now)  # read_text is I/O

    @workflow.update
    def decide(self) -> str:
        return os.environ["X"] + settings().run_dir.name  # may differ

    @decide.validator
    def can_decide(self) -> None:
        uuid.uuid4()  # uuid.uuid4 is another value

    @workflow.query
    def told(self) -> bytes:
        return os.urandom(8) + random.Random().randbytes(8)  # is another value
"""

RIGHT = """
from __future__ import annotations

import asyncio
import random
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import pydantic
import structlog
from temporalio import activity, workflow
from temporalio.common import RetryPolicy

from .jobs import orders
from .runtime import JobWorkflow, job
from .settings import settings

if TYPE_CHECKING:
    import rich

with workflow.unsafe.imports_passed_through():
    import httpx

    from .jobs.fulfilment import fulfil_order

TWICE = RetryPolicy(maximum_attempts=10)
PRICES = {"a": 1}
LIMIT = settings().max_deliveries
log = structlog.get_logger()


@dataclass
class Basket:
    created: float = field(default_factory=time.time)
    ids: set[str] = field(default_factory=set)

    def open(self) -> bool:
        return not self.ids

    def label(self) -> str:
        return f"{uuid.uuid4()}"


class Clock:
    def __init__(self) -> None:
        self.began = time.monotonic()

    def run(self) -> float:
        return time.monotonic() - self.began


@job(retry=None)
async def charge(sku: str) -> str:
    async with httpx.AsyncClient() as http:
        await http.get(settings().payment_gateway_url)
    return str(uuid.uuid4())


@activity.defn
def plain(path: str) -> str:
    time.sleep(0.1)
    return open(path).read() + str(random.random())


def starter() -> str:
    return f"{datetime.now()}-{uuid.uuid4()}"


def rank(sku: str) -> int:
    return PRICES.get(sku, 0)


@workflow.defn
class Careful(JobWorkflow):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.stopped = asyncio.Event()

    @classmethod
    async def start(cls, client) -> None:
        await client.start_workflow(cls.run, id=str(uuid.uuid4()), task_queue="default")

    @workflow.run
    async def run(self, skus: list[str], open: bool = False, time: float = 1.0) -> float:
        began, chance = workflow.now(), workflow.random()
        if open and chance.random() > 0.5 and datetime(2026, 1, 1) < began.replace(tzinfo=None):
            await asyncio.sleep(chance.randint(1, 5))
        seeded = random.Random(workflow.info().run_id)
        seeded.shuffle(skus)
        for sku in sorted({*skus}, key=rank):
            self.seen.add(sku)
        for number in {1, 2, 3}:
            self.seen.discard(str(number))
        small = {sku for sku in self.seen if len(sku) < 3}
        if any(sku in small for sku in self.seen) or len(small) > max(len(sku) for sku in self.seen):
            log.info("small", count=sum(len(sku) for sku in small))
        counts: dict[str, int] = {}
        counts["a"] = counts.setdefault("b", 1)
        gate = asyncio.Semaphore(5)

        async def part(sku: str) -> str:
            async with gate, asyncio.timeout(5):
                return await self.step(charge, sku)

        found = await asyncio.gather(*map(part, skus), *(self.step(charge, sku) for sku in sorted(small)))
        await asyncio.wait_for(self.stopped.wait(), 1)
        tasks = [asyncio.create_task(part(sku)) for sku in skus]
        done, _ = await workflow.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for each in workflow.as_completed(tasks):
            await each
        options = {"start_to_close_timeout": timedelta(1)}
        await workflow.execute_activity(plain, "x", **options)
        await workflow.execute_activity(plain, "x", start_to_close_timeout=timedelta(1), retry_policy=TWICE)
        await workflow.execute_child_workflow("child", retry_policy=RetryPolicy(maximum_attempts=1))
        with workflow.unsafe.sandbox_unrestricted():
            starter()
        self.progress(stage="DONE", message=f"{workflow.uuid4()} {uuid.uuid5(uuid.NAMESPACE_DNS, 'a')}")
        return time + workflow.time() + len(found) + len(done) + partial(rank, "a")()

    @workflow.signal
    async def stop(self, basket: Basket) -> None:
        basket.open()
        self.stopped.set()
"""


STUCK = """
from temporalio import workflow

from ..runtime import JobWorkflow, workflow_job


@workflow.defn(name="sticks")
class Sticks(JobWorkflow):
    @workflow.run
    async def run(self) -> str:
        return str(1 / 0)


sticks = workflow_job(Sticks.run, queue="default")
"""


@pytest.fixture
def service(installed: Installed) -> Service:
    """None of its parts runs: code can be looked at without."""
    return Service(installed)


def test_what_differs_in_a_replay_is_named_line_by_line(service: Service) -> None:
    told = findings(service, WRONG, code=1)
    lines = {number: line.partition("  # ")[2] for number, line in enumerate(WRONG.splitlines(), 1)}
    marked = {number: said for number, said in lines.items() if said and said != "doctor: ok"}
    assert told.keys() == marked.keys(), told
    assert all(marked[number] in told[number] for number in marked), told


def test_what_is_the_same_in_each_replay_is_not_found_fault_with(service: Service) -> None:
    assert findings(service, RIGHT, code=0) == {}


def test_a_job_that_is_stuck_in_its_own_code_is_named_while_the_server_answers(installed: Installed) -> None:
    code = installed.folder / "src" / installed.package / "jobs" / "sticks.py"
    code.write_text(STUCK)
    try:
        with running(installed) as service:
            job = service.submit("sticks")
            until(lambda: service.dead_letters(job="sticks"), 30)
            [found] = service.cli_json("doctor", code=1)
            assert job in found["where"]
            assert "division by zero" in found["problem"]
            service.broker.kill_group()
            assert service.cli_json("doctor") == []
    finally:
        code.unlink()


def findings(service: Service, text: str, code: int) -> dict[int, str]:
    """The problems of each line."""
    draft = service.installed.folder / "src" / service.installed.package / "draft.py"
    draft.write_text(text)
    try:
        found = service.cli_json("doctor", code=code)
    finally:
        draft.unlink()
    assert all("draft.py" in one["where"] and one["mend"] for one in found), found
    told: dict[int, str] = {}
    for one in found:
        line = int(one["where"].rpartition(":")[2])
        told[line] = f"{told.get(line, '')} {one['problem']}"
    return told
