"""The record of each job in Redis, changed by one atomic step of record.lua at a time.

A crash between two steps is the ordinary case. arq writes message, queue, claim, result and clean-up in separate
commands, and loses or repeats a job that dies in between; here what must change together changes together: a job's
state, its place in the queue, its lease, key, result, dead letter and counters. Steps of one moment share a round trip.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any
from weakref import WeakKeyDictionary

from hiredis import pack_command
from redis.exceptions import ConnectionError, NoScriptError, ResponseError, TimeoutError

from ..contract import DURATION_BUCKETS, WAIT_BUCKETS
from ..settings import settings
from .connection import JobRedis, dumps, redis, text
from .refusals import RefusedNow

METRICS = "metrics"
BATCH = 100  # steps that share a round trip at most
pack: Any = pack_command  # which is typed as if a command had one part
Fields = Mapping[str, Any]


def job_key(job_id: str) -> str:
    """The record's key."""
    return f"job:{job_id}"


def claim_key(name: str, key: str) -> str:
    """Where the holder of an idempotency key is noted: `<job id>|<fingerprint of its payload>`."""
    return f"key:{name}:{key}"


def result_key(job_id: str) -> str:
    """Where arq keeps the result."""
    return f"arq:result:{job_id}"


def lease_key(job_id: str) -> str:
    """Who runs it; there while its worker lives. `arq.jobs.Job.status()` looks at it."""
    return f"arq:in-progress:{job_id}"


def queue_key(queue: str, priority: int = 5) -> str:
    """The sorted set of waiting jobs by due time; other clients of arq write the one of priority 5."""
    return f"arq:queue:{queue}" if priority == 5 else f"arq:queue:{queue}:{priority}"


def running_key(queue: str) -> str:
    """The sorted set of running jobs by the end of their leases."""
    return f"arq:running:{queue}"


@cache
def script() -> str:
    """record.lua with the settings' values."""
    conf = settings()
    constants = {
        "LEASE": int(conf.lease * 1000),
        "RENEWAL": conf.renewal,
        "RECORD_TTL": conf.record_ttl,
        "RESULT_TTL": conf.result_ttl,
        "KEY_TTL": conf.idempotency_ttl,
        "MAX_DELIVERIES": conf.max_deliveries,
        "WAIT_BUCKETS": f"{{{','.join(map(str, WAIT_BUCKETS))}}}",
        "DURATION_BUCKETS": f"{{{','.join(map(str, DURATION_BUCKETS))}}}",
    }
    values = "".join(f"local {name} = {value}\n" for name, value in constants.items())
    return values + (files(__package__ or "") / "record.lua").read_text(encoding="utf-8")


@cache
def _script_sha() -> str:
    return hashlib.sha1(script().encode(), usedforsecurity=False).hexdigest()


@dataclass(eq=False, slots=True)
class _Step:
    command: bytes
    answer: asyncio.Future[Any]
    once: bool
    sent_again: bool = False


class Records:
    """The steps of record.lua, bound to the client of one event loop."""

    def __init__(self, client: JobRedis) -> None:
        self.client = client
        self._loaded = False  # the script, as far as is known
        self._link: Any = None  # a connection of its own, so that nothing comes between a batch and the next
        self._waiting: list[_Step] = []
        self._sender: asyncio.Task[None] | None = None

    async def step(self, *arguments: Any, once: bool = False) -> Any:
        """One step; those asked for while others are on their way go together. It is sent again when its answer got
        lost, unless `once`. Raises TypeError or UnicodeEncodeError for an argument that cannot be sent.
        """
        command = pack(("EVALSHA", _script_sha(), 0, *arguments))  # here: an error must not harm the others
        step = _Step(command, asyncio.get_running_loop().create_future(), once)
        self._waiting.append(step)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send())
        return await step.answer

    async def _send(self) -> None:
        """Each batch goes before the answers to the last are handed out: Redis works on it while those go on."""
        answered: list[tuple[_Step, Any]] = []
        while self._waiting or answered:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            earlier, answered = answered, []
            try:
                if batch:
                    await self._connect()
                    await self._link.send_packed_command(b"".join(step.command for step in batch))
                self._hand_out(earlier)
                earlier = []
                for step in batch:  # one by one: those that were answered keep their answers
                    answered.append((step, await self._reply()))
                if any(isinstance(reply, RefusedNow) for _, reply in answered):
                    await self._link.disconnect()  # another server may be the master by now
            except Exception as error:
                self._hand_out(earlier)
                failed = batch[len(answered) :]
                if isinstance(error, TimeoutError):  # those that came meanwhile have waited for it, too
                    failed, self._waiting = failed + self._waiting, []
                answered += [(step, error) for step in failed]

    async def _connect(self) -> None:
        if not self._loaded:
            await self.client.script_load(script())
            self._loaded = True
        self._link = self._link or await self.client.connection_pool.get_connection()

    async def _reply(self) -> Any:
        try:
            return await self._link.read_response(disconnect_on_error=False)
        except (ResponseError, RefusedNow) as error:
            return error
        except BaseException:
            await self._link.disconnect(nowait=True)  # it opens again when something is sent
            raise

    def _hand_out(self, answered: Sequence[tuple[_Step, Any]]) -> None:
        for step, reply in answered:
            if step.answer.done():  # who asked has been cancelled
                continue
            if isinstance(reply, NoScriptError) and not step.sent_again:
                self._loaded, step.sent_again = False, True
                self._waiting.append(step)
            elif _is_lost(reply) and not step.once and not step.sent_again:
                step.sent_again = True
                self._waiting.append(step)
            elif isinstance(reply, Exception):
                step.answer.set_exception(reply)
            else:
                step.answer.set_result(reply)

    async def submit(
        self, job_id: str, name: str, key: str, fingerprint: str, message: bytes, fields: Fields,
        *, delay: float, take_over: bool,
    ) -> tuple[str, str, bool]:  # fmt: skip
        """Queue a job, unless its key is held; answers who holds it, the fingerprint, and whether the job is new."""
        holder, held, new = await self.step(
            "submit", job_id, name, key, fingerprint, int(take_over), int(delay * 1000), message, *flat(fields)
        )
        return text(holder), text(held), bool(new)

    async def sequence(self, specs: Sequence[Mapping[str, Any]]) -> None:
        """Write jobs down that run one after the other, and queue the first."""
        await self.step("sequence", dumps(specs))

    async def group(self, group: str, size: int, fan_in: Mapping[str, Any]) -> None:
        """Write down what comes after `size` parts."""
        await self.step("group", group, size, dumps(fan_in))

    async def update(self, job_id: str, *, at: str = "updated_at", **fields: Any) -> bool:
        """Set fields of a running job, and when in the field `at`; True if it was asked to stop."""
        return bool(await self.step("update", job_id, at, *flat(fields)))

    async def field(self, job_id: str, name: str) -> str | None:
        """One field of the record."""
        value = await self.client.execute_command("HGET", job_key(job_id), name)
        return None if value is None else text(value)


def _is_lost(reply: object) -> bool:
    return isinstance(reply, ConnectionError) and not isinstance(reply, RefusedNow)


def flat(fields: Fields) -> list[Any]:
    """Field, value, field, value …, without those that are None."""
    return [part for name, value in fields.items() if value is not None for part in (name, value)]


_records: WeakKeyDictionary[JobRedis, Records] = WeakKeyDictionary()


def records() -> Records:
    """The running event loop's records."""
    client = redis()
    if client not in _records:
        _records[client] = Records(client)
    return _records[client]
