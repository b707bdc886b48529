"""A service knows the format of the state that it finds; tests/update/test_live.py: what it does with another."""

import subprocess

import pytest

from .service import Service

COMMAND = "import redis, sys; print(redis.Redis.from_url(sys.argv[1]).execute_command(*sys.argv[2:]))"


def redis(service: Service, *command: str) -> str:
    """What Redis answers, as Python shows it."""
    url = service.environment["REDIS_URL"]
    return subprocess.check_output([service.installed.python, "-c", COMMAND, url, *command], text=True).strip()


def test_the_format_is_noted_by_whoever_starts_first(service: Service) -> None:
    assert redis(service, "GET", "state:format") == "b'1'"


@pytest.mark.parametrize("command", ["api", "worker", "scheduler"])
def test_what_is_older_than_the_state_does_not_start(service: Service, command: str) -> None:
    redis(service, "SET", "state:format", "2")
    try:
        told = service.cli(command, code=1)
        assert redis(service, "GET", "state:format") == "b'2'"
    finally:
        redis(service, "SET", "state:format", "1")
    assert "Redis holds state of format 2, this release knows 1: a newer release was here. Deploy that one" in told
