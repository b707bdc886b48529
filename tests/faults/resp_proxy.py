"""A proxy that knows Redis' protocol, and answers chosen commands with an error, late, with half a reply or not at all.

    with RespProxy(port_of_redis) as proxy:
        rule = proxy.answer("EVALSHA", OOM, having=job_id, times=2)
        …
        assert rule.met

What Redis does to a command and what its client learns of it are two things. An `Answer` with `executed` is given in
place of the reply of a command that Redis has executed: the client cannot know.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from .tcp_proxy import CHUNK, Connection, Stream, TcpProxy

Kind = Literal["error", "close", "silence", "delay", "truncate"]
DISCARD = b"*1\r\n$7\r\nDISCARD\r\n"
NOTHING_HERE = b"*1\r\n$13\r\nNO-SUCH-THING\r\n"  # makes a transaction fail as a command refused within it does


@dataclass(frozen=True)
class Answer:
    """What a client gets in place of Redis' reply."""

    kind: Kind
    text: str = ""
    """Of the error, with its code."""
    executed: bool = False
    """Whether Redis executes the command; always with a delay and half a reply."""
    seconds: float = 0.0
    """Of the delay."""

    def __post_init__(self) -> None:
        if self.kind in ("delay", "truncate"):
            object.__setattr__(self, "executed", True)

    def after(self) -> "Answer":
        """The same, but Redis has executed the command."""
        return replace(self, executed=True)


@dataclass(frozen=True)
class Command:
    """One command of a client. `step` is what the test calls the script that it runs."""

    parts: Sequence[bytes]
    step: str = ""

    @property
    def name(self) -> str:
        return self.parts[0].decode(errors="replace").upper() if self.parts else ""


@dataclass(eq=False)
class Rule:
    """Which commands get an answer: named `on` (`SET|HSET`), or whose script is, with `having` in one argument."""

    on: str
    answer: Answer
    having: bytes = b""
    skip: int = 0
    """So many fitting commands are left alone first."""
    times: int | None = 1
    """So many get the answer; None: all, until the rule is removed."""
    met: int = 0
    """So many got it."""

    def fits(self, command: Command) -> bool:
        """Whether this command gets the answer; counts it."""
        if not {"*", command.name, command.step} & {*self.on.split("|")} or self.times == self.met:
            return False
        if self.having and not any(self.having in part for part in command.parts):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.met += 1
        return True


@dataclass
class Awaited:
    """A command whose reply comes, and what becomes of it; `reply` is there before, where Redis is not asked."""

    answer: Answer | None = None
    reply: bytes | None = None


@dataclass(eq=False)
class RedisConnection(Connection):
    """Its commands without a reply, oldest first."""

    client: Stream
    server: Stream
    awaited: deque[Awaited] = field(default_factory=deque)
    subscribed: bool = False
    within_multi: bool = False
    over: bool = False
    """What the client sends from now on is not heard: it gets no answer, or is cut off."""
    mute: bool = False


class RespProxy(TcpProxy):
    """`step_of(script, arguments)` names the script that EVAL or EVALSHA runs, for rules."""

    scripts: ClassVar[dict[bytes, str]] = {}
    """By hash, also those that another client of the same server has loaded."""

    def __init__(self, server_port: int, step_of: Callable[[str, Sequence[bytes]], str] | None = None) -> None:
        super().__init__(server_port)
        self.rules: list[Rule] = []
        self.seen: deque[Command] = deque(maxlen=2000)
        """The last commands."""
        self._step_of = step_of or (lambda script, arguments: "")

    def answer(self, on: str, answer: Answer, *, having: str = "", skip: int = 0, times: int | None = 1) -> Rule:
        """A new rule; those made first are asked first."""
        rule = Rule(on, answer, having.encode(), skip, times)
        self.rules.append(rule)
        return rule

    def clear(self) -> None:
        """No rule holds any longer."""
        self.rules = []

    def connected(self, client: Stream, server: Stream) -> RedisConnection:
        return RedisConnection(client, server)

    async def to_server(self, connection: Connection) -> None:
        assert isinstance(connection, RedisConnection)
        with suppress(OSError, asyncio.IncompleteReadError):
            while not connection.over:
                raw, parts = await read_command(connection.client.reader)
                await self.passes()
                await self._asked(connection, raw, self._named(parts))
            while await connection.client.reader.read(CHUNK):
                pass

    async def to_client(self, connection: Connection) -> None:
        assert isinstance(connection, RedisConnection)
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                frame = await read_frame(connection.server.reader)
                if is_pushed(frame, connection.subscribed):
                    connection.subscribed = still_subscribed(frame, connection.subscribed)
                    await connection.client.write(frame)
                elif not await self._answered(connection, frame):
                    return

    def _named(self, parts: Sequence[bytes]) -> Command:
        command = Command(parts)
        if command.name == "SCRIPT" and len(parts) > 2 and parts[1].upper() == b"LOAD":
            self._learn(parts[2])
        elif command.name in ("EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO"):
            sha = parts[1] if "SHA" in command.name else self._learn(parts[1])
            command = Command(parts, self._step_of(self.scripts.get(sha.lower(), ""), parts[3:]))
        self.seen.append(command)
        return command

    def _learn(self, script: bytes) -> bytes:
        sha = hashlib.sha1(script).hexdigest().encode()
        self.scripts[sha] = script.decode(errors="replace")
        return sha

    async def _asked(self, connection: RedisConnection, raw: bytes, command: Command) -> None:
        """A command of the client: send it on, unless a rule says otherwise."""
        rule = next((rule for rule in self.rules if rule.fits(command)), None)
        answer = rule.answer if rule else None
        if answer and answer.kind in ("close", "silence", "truncate"):
            connection.over = True
        refused = answer is not None and answer.kind == "error" and not answer.executed
        if command.name in ("SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE") and not answer:
            connection.subscribed = True  # confirmed by what is pushed
        elif answer is None or answer.executed:
            connection.awaited.append(Awaited(answer))
        elif refused and connection.within_multi:  # the rest of the transaction must not happen either
            connection.awaited.append(Awaited(answer))
            raw = DISCARD if command.name == "EXEC" else NOTHING_HERE
        else:
            connection.awaited.append(Awaited(answer, b""))
            return await self._settle(connection)
        if command.name in ("MULTI", "EXEC", "DISCARD"):
            connection.within_multi = command.name == "MULTI"
        return await connection.server.write(raw)

    async def _settle(self, connection: RedisConnection) -> None:
        """Give the answers that Redis is not asked for, once their turn has come."""
        while connection.awaited and connection.awaited[0].reply is not None:
            if not await self._give(connection, connection.awaited.popleft().answer, b""):
                return

    async def _answered(self, connection: RedisConnection, frame: bytes) -> bool:
        """Redis' reply: pass it on, or what a rule says; False if the connection is over."""
        answer = connection.awaited.popleft().answer if connection.awaited else None
        if not await self._give(connection, answer, frame):
            return False
        await self._settle(connection)
        return True

    async def _give(self, connection: RedisConnection, answer: Answer | None, frame: bytes) -> bool:
        connection.mute |= answer is not None and answer.kind == "silence"
        if connection.mute:
            return True
        if answer is None or answer.kind == "delay":
            await asyncio.sleep(answer.seconds if answer else 0)
            await self.passes()
            await connection.client.write(frame)
        elif answer.kind == "error":
            await connection.client.write(f"-{answer.text}\r\n".encode())
        else:
            if answer.kind == "truncate":
                await connection.client.write(frame[: max(1, len(frame) // 2)])
            connection.close()
            return False
        return True


async def read_command(reader: asyncio.StreamReader) -> tuple[bytes, list[bytes]]:
    """One command as it was sent, and its parts; also one in plain words, as people type."""
    line = await _line(reader)
    if line[:1] != b"*":
        return line, line.split()
    raw, parts = [line], []
    for _ in range(int(line[1:])):
        head = await _line(reader)
        body = await reader.readexactly(int(head[1:]) + 2)
        raw += head, body
        parts.append(body[:-2])
    return b"".join(raw), parts


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """One whole reply, RESP2 or RESP3, with all that it holds."""
    line = await _line(reader)
    kind, count = line[:1], line[1:-2]
    if kind in b"$!=" and count not in (b"-1", b"?"):
        return line + await reader.readexactly(int(count) + 2)
    if kind in b"*~>%|" and count != b"-1":
        inner = int(count) * (2 if kind in b"%|" else 1)
        frame = line + b"".join([await read_frame(reader) for _ in range(inner)])
        return frame + await read_frame(reader) if kind == b"|" else frame  # an attribute stands before its reply
    return line


def is_pushed(frame: bytes, subscribed: bool) -> bool:
    """Whether no command waits for it: it is of a subscription."""
    return frame[:1] == b">" or (subscribed and first_word(frame) in MESSAGES)


MESSAGES = {prefix + word for prefix in (b"", b"p", b"s") for word in (b"message", b"subscribe", b"unsubscribe")}


def still_subscribed(frame: bytes, subscribed: bool) -> bool:
    """After this frame; one that confirms says how many channels are left."""
    if first_word(frame).endswith(b"subscribe"):
        return int(frame.rsplit(b":", 1)[1]) > 0
    return subscribed


def first_word(frame: bytes) -> bytes:
    parts = frame.split(b"\r\n", 3)
    return parts[2] if frame[:1] in b"*>" and len(parts) > 2 else b""


async def _line(reader: asyncio.StreamReader) -> bytes:
    """With its end. A reader's own limit on lines does not hold: a command may be any length."""
    return await reader.readuntil(b"\r\n")
