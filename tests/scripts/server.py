"""Redis in this process, as far as our scripts use it: its clock stands until it is moved, and a copy costs little.

`Lua.run` runs the very script that services send, in Lua 5.1 as Redis does. The commands are ours: test_server.py puts
the same calls to them and to a real server.
"""

import json
import math
from collections.abc import Callable
from typing import Any

from lupa import lua51


class CommandError(Exception):
    """What Redis answers to a call that is wrong."""


class Server:
    """Keys with their values, when they expire, and the time in µs."""

    def __init__(self, now: int = 1_700_000_000_000_000) -> None:
        self.now = now
        self.values: dict[str, Any] = {}
        self.expires: dict[str, int] = {}

    def copy(self) -> "Server":
        """Another one in the same state."""
        other = Server(self.now)
        other.values = {key: value if isinstance(value, str) else value.copy() for key, value in self.values.items()}
        other.expires = dict(self.expires)
        return other

    def state(self) -> tuple[Any, ...]:
        """What tells it from another one, besides the time."""
        shown = (
            (
                key,
                value if isinstance(value, str) else tuple(sorted(value.items()) if isinstance(value, dict) else value),
            )
            for key, value in self.values.items()
        )
        return tuple(sorted(shown)), tuple(sorted(self.expires.items()))

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += round(seconds * 1e6)
        for key in [key for key, at in self.expires.items() if at <= self.now]:
            self._delete(key)

    def _delete(self, key: str) -> int:
        self.expires.pop(key, None)
        return 0 if self.values.pop(key, None) is None else 1

    def call(self, name: str, *arguments: Any) -> Any:
        """One command's answer: text, number, list, or None."""
        method: Callable[..., Any] | None = getattr(self, f"do_{name.lower()}", None)
        if method is None:
            raise CommandError(f"this server does not know {name}")
        return method(*(text_of(argument) for argument in arguments))

    # strings
    def do_time(self) -> list[str]:
        return [str(self.now // 1_000_000), str(self.now % 1_000_000)]

    def do_get(self, key: str) -> str | None:
        return self.values.get(key)

    def do_set(self, key: str, value: str, *options: str) -> Any:
        words = [option.upper() for option in options]
        if ("NX" in words and key in self.values) or ("XX" in words and key not in self.values):
            return None
        self._delete(key)
        self.values[key] = value
        for unit, factor in (("EX", 1_000_000), ("PX", 1_000)):
            if unit in words:
                self.expires[key] = self.now + whole(options[words.index(unit) + 1]) * factor
        return {"ok": "OK"}

    def do_del(self, *keys: str) -> int:
        return sum(self._delete(key) for key in keys)

    def do_exists(self, *keys: str) -> int:
        return sum(key in self.values for key in keys)

    def _expire(self, key: str, at: int, *options: str) -> int:
        if key not in self.values:
            return 0
        before = self.expires.get(key, math.inf)
        [option] = [option.upper() for option in options] or [""]
        if (option == "GT" and at <= before) or (option == "LT" and at >= before):
            return 0
        if at <= self.now:
            return self._delete(key)
        self.expires[key] = at
        return 1

    def do_expire(self, key: str, seconds: str, *options: str) -> int:
        return self._expire(key, self.now + whole(seconds) * 1_000_000, *options)

    def do_pexpire(self, key: str, milliseconds: str, *options: str) -> int:
        return self._expire(key, self.now + whole(milliseconds) * 1_000, *options)

    def do_persist(self, key: str) -> int:
        return int(self.expires.pop(key, None) is not None)

    def do_pttl(self, key: str) -> int:
        if key not in self.values:
            return -2
        return (self.expires[key] - self.now) // 1_000 if key in self.expires else -1

    def do_ttl(self, key: str) -> int:
        left = self.do_pttl(key)
        return left if left < 0 else (left + 500) // 1_000

    def do_publish(self, *_: str) -> int:
        return 0

    # hashes
    def _hash(self, key: str) -> dict[str, str]:
        return self.values.get(key, {})

    def do_hset(self, key: str, *pairs: str) -> int:
        if not pairs or len(pairs) % 2:
            raise CommandError("wrong number of arguments for 'hset' command")
        found = self.values.setdefault(key, {})
        before = len(found)
        found.update(zip(pairs[::2], pairs[1::2], strict=True))
        return len(found) - before

    def do_hsetnx(self, key: str, field: str, value: str) -> int:
        return 0 if field in self._hash(key) else self.do_hset(key, field, value)

    def do_hget(self, key: str, field: str) -> str | None:
        return self._hash(key).get(field)

    def do_hmget(self, key: str, *fields: str) -> list[str | None]:
        return [self._hash(key).get(field) for field in fields]

    def do_hexists(self, key: str, field: str) -> int:
        return int(field in self._hash(key))

    def do_hlen(self, key: str) -> int:
        return len(self._hash(key))

    def do_hdel(self, key: str, *fields: str) -> int:
        found = self._hash(key)
        gone = sum(found.pop(field, None) is not None for field in fields)
        if not found:
            self._delete(key)
        return gone

    def do_hincrby(self, key: str, field: str, number: str) -> int:
        total = whole(self._hash(key).get(field, "0")) + whole(number)
        self.do_hset(key, field, str(total))
        return total

    def do_hincrbyfloat(self, key: str, field: str, number: str) -> str:
        total = f"{float(self._hash(key).get(field, '0')) + float(number):.17g}"
        self.do_hset(key, field, total)
        return total

    # sorted sets
    def _sorted(self, key: str) -> list[tuple[float, str]]:
        return sorted((score, member) for member, score in self.values.get(key, {}).items())

    def do_zadd(self, key: str, *pairs: str) -> int:
        found = self.values.setdefault(key, {})
        before = len(found)
        found.update({member: float(score) for score, member in zip(pairs[::2], pairs[1::2], strict=True)})
        return len(found) - before

    def do_zrem(self, key: str, *members: str) -> int:
        found = self.values.get(key, {})
        gone = sum(found.pop(member, None) is not None for member in members)
        if not found:
            self._delete(key)
        return gone

    def do_zscore(self, key: str, member: str) -> str | None:
        score = self.values.get(key, {}).get(member)
        return None if score is None else number_text(score)

    def do_zrange(self, key: str, first: str, last: str, *options: str) -> list[str]:
        words, found = [option.upper() for option in options], self._sorted(key)
        if "BYSCORE" in words:
            found = [(score, member) for score, member in found if float(first) <= score <= float(last)]
            if "LIMIT" in words:
                at = words.index("LIMIT")
                start, count = whole(options[at + 1]), whole(options[at + 2])
                found = found[start:] if count < 0 else found[start : start + count]
        else:
            start, end = (
                position + len(found) if position < 0 else position for position in (whole(first), whole(last))
            )
            found = found[max(start, 0) : end + 1]
        if "WITHSCORES" in words:
            return [part for score, member in found for part in (member, number_text(score))]
        return [member for _, member in found]


def whole(text: str) -> int:
    """A whole number as Redis reads it."""
    if not text.lstrip("-").isdigit():
        raise CommandError("value is not an integer or out of range")
    return int(text)


def number_text(number: float) -> str:
    """A number as Redis writes it."""
    return str(int(number)) if number == int(number) else repr(number)


def text_of(argument: Any) -> str:
    """An argument of a command, as `redis.call` turns a number into text."""
    if isinstance(argument, str):
        return argument
    if isinstance(argument, bytes):
        return argument.decode()
    if isinstance(argument, bool) or not isinstance(argument, int | float):
        raise CommandError("Lua redis lib command arguments must be strings or integers")
    return str(int(argument)) if argument == int(argument) and abs(argument) < 1e17 else f"{argument:.17g}"


class Lua:
    """One interpreter, which many servers share: a script sees the server for which it runs."""

    def __init__(self) -> None:
        self.runtime = lua51.LuaRuntime(unpack_returned_tuples=True)
        self.server: Server | None = None
        self.scripts: dict[str, Any] = {}
        lua = self.runtime.globals()
        self.null = self.runtime.eval("setmetatable({}, {__tostring = function() return 'null' end})")
        lua.redis = self.runtime.table_from({"call": self._call})
        lua.cjson = self.runtime.table_from({"decode": self._decode, "encode": self._encode, "null": self.null})
        self.table = self.runtime.table

    def run(self, server: Server, script: str, keys: list[str], arguments: list[Any]) -> Any:
        """The script's answer as a client gets it: text, whole number, list or None; raises CommandError."""
        if script not in self.scripts:
            self.scripts[script] = self.runtime.compile(script)
        self.server = server
        lua = self.runtime.globals()
        lua.KEYS, lua.ARGV = self.table(*keys), self.table(*map(text_of, arguments))
        try:
            return self._reply(self.scripts[script]())
        except lua51.LuaError as error:
            raise CommandError(str(error)) from error

    def _call(self, name: str, *arguments: Any) -> Any:
        assert self.server
        return self._to_lua(self.server.call(name, *arguments))

    def _to_lua(self, answer: Any) -> Any:
        if answer is None:
            return False
        if isinstance(answer, list):
            return self.table(*map(self._to_lua, answer))
        return self.runtime.table_from(answer) if isinstance(answer, dict) else answer

    def _reply(self, value: Any) -> Any:
        if isinstance(value, tuple):
            value = value[0] if value else None
        if value is None or value is False:
            return None
        if value is True:
            return 1
        if isinstance(value, int | float):
            return int(value)
        if lua51.lua_type(value) == "table":
            if value["ok"]:
                return value["ok"]
            found = []
            while (part := value[len(found) + 1]) is not None:
                found.append(self._reply(part))
            return found
        return value

    def _decode(self, text: str) -> Any:
        try:
            return self._json_to_lua(json.loads(text))
        except ValueError as error:
            raise CommandError(f"cjson: {error}") from error

    def _json_to_lua(self, value: Any) -> Any:
        if value is None:
            return self.null
        if isinstance(value, list):
            return self.table(*map(self._json_to_lua, value))
        if isinstance(value, dict):
            return self.runtime.table_from({key: self._json_to_lua(entry) for key, entry in value.items()})
        return value

    def _encode(self, value: Any) -> str:
        return json.dumps(self._json_from_lua(value), separators=(",", ":"), sort_keys=True)

    def _json_from_lua(self, value: Any) -> Any:
        if value is self.null or (lua51.lua_type(value) == "table" and value == self.null):
            return None
        if lua51.lua_type(value) != "table":
            return int(value) if isinstance(value, float) and value == int(value) else value
        entries = dict(value.items())
        if entries and all(isinstance(key, int | float) for key in entries):
            return [self._json_from_lua(entries[place]) for place in sorted(entries)]
        return {str(key): self._json_from_lua(entry) for key, entry in entries.items()}
