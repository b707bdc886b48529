"""Every way in which a job can end by itself: `end("file_not_found")` returns or raises as that kind does."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

MEGABYTES = 5 * 1024 * 1024


class OwnBaseException(BaseException):
    """Not an Exception: `except Exception` lets it pass."""


class Unprintable(Exception):
    """Its text cannot be read."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Unpicklable(Exception):
    """It cannot cross a process boundary, and cannot be made again from its arguments."""

    def __init__(self, first: object, second: object) -> None:
        super().__init__("cannot be pickled")
        self.held = (first, second, lambda: None)


class Keyed(Exception):
    """Its arguments are not JSON."""


def _raise(error: BaseException) -> NoReturn:
    raise error


def _recurse(depth: int = 0) -> int:
    return _recurse(depth + 1) + 1


def _exit_by_argparse() -> NoReturn:
    import argparse

    argparse.ArgumentParser(prog="tool").parse_args(["--no-such-option"])
    raise AssertionError("argparse has exited")


def _from_a_cause() -> NoReturn:
    try:
        raise KeyError("the cause")
    except KeyError as cause:
        raise RuntimeError("the effect") from cause


KINDS: dict[str, Callable[[], object]] = {
    # values
    "value": lambda: {"answer": 42},
    "none": lambda: None,
    "large": lambda: "x" * 200_000,
    "not_json": lambda: object(),
    "bytes": lambda: b"\xff\xfe",
    "nan": lambda: float("nan"),
    "infinity_inside": lambda: {"rates": [1.0, float("inf")]},
    "surrogate_value": lambda: "half an emoji \ud83d",
    "looks_like_a_reference": lambda: {"$ref": "another-job", "bytes": 3},
    # exceptions
    "error": lambda: _raise(RuntimeError("simply failed")),
    "no_text": lambda: _raise(RuntimeError()),
    "file_not_found": lambda: Path("/srv/x.png").read_bytes(),
    "zero_division": lambda: 1 // 0,
    "assertion": lambda: _raise(AssertionError("it does not hold")),
    "from_a_cause": _from_a_cause,
    "group": lambda: _raise(ExceptionGroup("several", [ValueError("one"), TypeError("two")])),
    "stop_iteration": lambda: next(iter([])),
    "stop_async_iteration": lambda: _raise(StopAsyncIteration("over")),
    "recursion": _recurse,
    "memory_error": lambda: _raise(MemoryError()),
    "timeout_error": lambda: _raise(TimeoutError("no answer")),
    "connection_error": lambda: _raise(ConnectionRefusedError(111, "Connection refused")),
    "unprintable": lambda: _raise(Unprintable()),
    "unpicklable": lambda: _raise(Unpicklable(object(), object())),
    "keyed": lambda: _raise(Keyed({b"\xff": object()}, object())),
    "surrogate_text": lambda: _raise(ValueError("half an emoji \ud83d")),
    "encodes": lambda: "half an emoji \ud83d".encode(),
    "nul_text": lambda: _raise(ValueError("a \x00 and an \x1b[31mescape")),
    "huge_text": lambda: _raise(ValueError("begins here " + "x" * MEGABYTES)),
    # not Exceptions
    "system_exit": lambda: _raise(SystemExit(3)),
    "system_exit_0": lambda: _raise(SystemExit(0)),
    "exit_by_argparse": _exit_by_argparse,
    "keyboard_interrupt": lambda: _raise(KeyboardInterrupt()),
    "generator_exit": lambda: _raise(GeneratorExit()),
    "cancelled_error": lambda: _raise(asyncio.CancelledError("by itself")),
    "own_base_exception": lambda: _raise(OwnBaseException("on its own")),
    "base_group": lambda: _raise(BaseExceptionGroup("several", [SystemExit(3), ValueError("one")])),
    # the process
    "process_exit_0": lambda: os._exit(0),
    "process_exit_3": lambda: os._exit(3),
    "process_killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "process_aborted": lambda: os.abort(),
}


def end(kind: str) -> object:
    """Return or raise as this kind does."""
    return KINDS[kind]()
