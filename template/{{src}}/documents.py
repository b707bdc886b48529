"""Make and read JSON that every reader accepts.

`NaN`, `Infinity` and numbers beyond a float are not JSON: a browser, Go and jq refuse the whole document. Python's
libraries write and read them all the same, or replace them with null where they stand in a model.
"""

import re
from math import isfinite
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

READ_BACK = 65_536
"""Bytes up to which a document that was made is read again: levels or digits may be beyond what readers accept. Of a
larger one, which no message carries, only the digits are checked."""
LONG_NUMBER = re.compile(rb"\d{4300}")  # Python reads no longer one
AROUND = 8  # levels left for what a document is put into: a message, a result's, a dead letter
ANYTHING = TypeAdapter[Any](Any)


class NotJsonError(ValueError):
    """A value has no JSON; the text says why, and where in the value."""


def encode(value: object) -> bytes:
    """The value as JSON. Raises NotJsonError."""
    if value is None:  # the commonest
        return b"null"
    encoded = _encode(value)
    if len(encoded) <= READ_BACK or LONG_NUMBER.search(encoded):
        _read_back(encoded)
    return encoded


def decode(document: bytes | str) -> Any:
    """The value of a JSON document. Raises NotJsonError."""
    try:
        value = from_json(document, allow_inf_nan=False)
    except ValueError as error:
        raise NotJsonError(str(error)) from None
    encode(value)  # 1e999 is infinite
    return value


def jsonable(value: object) -> Any:
    """The value as who reads its JSON gets it. Raises NotJsonError."""
    return _read_back(_encode(value))


def _encode(value: object) -> bytes:
    try:
        encoded = to_json(value)
        if b"null" in encoded or b"NaN" in encoded or b"Infinity" in encoded:
            _refuse_non_finite(ANYTHING.dump_python(value))
    except ValueError as error:
        raise NotJsonError(str(error)) from None
    return encoded


def _refuse_non_finite(value: object, place: str = "") -> None:
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(f"JSON has no number {value}{place and f', here at {place}'}")
    entries = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list | tuple | set | frozenset):
        entries = enumerate(value)
    for name, entry in entries:
        _refuse_non_finite(entry, f"{place}[{name!r}]")


def _read_back(document: bytes) -> Any:
    try:
        value = from_json(b"[" * AROUND + document + b"]" * AROUND)
    except ValueError as error:
        raise NotJsonError(f"nested too deeply, or a number of more than 4300 digits: {error}") from None
    for _ in range(AROUND):
        [value] = value
    return value
