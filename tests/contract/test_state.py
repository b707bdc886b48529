"""A service knows the format of the state that it finds; tests/update/test_live.py: what it does with another."""

import pytest

from .service import Service
from .valkey import ask


def test_the_format_is_noted_by_whoever_starts_first(service: Service) -> None:
    assert ask(service, "GET", "state:format") == "b'1'"


@pytest.mark.parametrize("command", ["api", "worker", "scheduler"])
def test_what_is_older_than_the_state_does_not_start(service: Service, command: str) -> None:
    ask(service, "SET", "state:format", "2")
    try:
        told = service.cli(command, code=1)
        assert ask(service, "GET", "state:format") == "b'2'"
    finally:
        ask(service, "SET", "state:format", "1")
    assert "Redis holds state of format 2, this release knows 1: a newer release was here. Deploy that one" in told
