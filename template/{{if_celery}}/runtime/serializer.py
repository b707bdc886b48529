"""Let a payload, a header or a result hold any JSON.

kombu writes what JSON has no word for (a UUID, a date) as an object of `__type__` and `__value__`, and reads each such
object so: a caller's own came out as another value, or made its message unreadable.
"""

from typing import Any

from kombu.serialization import register
from kombu.utils.json import dumps as kombu_dumps
from kombu.utils.json import loads, register_type

__all__ = ["dumps", "install", "loads"]
NAMES = {"__type__", "__value__"}


class Literal:
    """Stands for an object that has just these names."""

    def __init__(self, entries: dict[str, Any]) -> None:
        self.entries = list(entries.items())


def dumps(value: Any) -> str:
    """The value as JSON, as kombu writes it; `loads` of kombu gives the same value where `install` was called."""
    text = kombu_dumps(value)
    return kombu_dumps(_marked(value)) if '"__type__"' in text else text


def install() -> None:
    """For all that is sent and stored as `json` from this process."""
    decode: Any = dict  # not to a Literal, which kombu's types ask for
    register_type(Literal, "literal", lambda literal: literal.entries, decode)
    register("json", dumps, loads, content_type="application/json", content_encoding="utf-8")


def _marked(value: Any) -> Any:
    if isinstance(value, dict):
        entries = {name: _marked(entry) for name, entry in value.items()}
        return Literal(entries) if entries.keys() == NAMES else entries
    return [_marked(entry) for entry in value] if isinstance(value, list | tuple) else value
