"""Settings that would lose or double jobs are refused before anything starts, with the numbers and the way out."""

from typing import Any

import pytest

from .service import Service

LONG_RUNNING = ("api", "worker", "scheduler")


def refused(service: Service, command: str, **settings: Any) -> str:
    """What the command says when it ends with exit code 2, in time."""
    return service.cli(command, code=2, within=3, **settings)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"soft_limit": 700}, ["SOFT_LIMIT=700", "HARD_LIMIT=600"]),
        ({"soft_limit": 600}, ["SOFT_LIMIT=600", "HARD_LIMIT=600"]),
        ({"hard_limit": 660}, ["HARD_LIMIT=660", "LOCK_TTL=660"]),
        ({"drain": 40}, ["DRAIN=40", "STOP_GRACE=40"]),
        ({"renewal": 8.5}, ["RENEWAL=8.5", "LEASE=24"]),
        ({"lease": 20}, ["RENEWAL=8", "LEASE=20"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_times_that_do_not_fit_are_refused_with_their_numbers(
    service: Service, settings: dict[str, Any], named: list[str]
) -> None:
    said = refused(service, "worker", **settings)
    for part in named:
        assert part in said


@pytest.mark.parametrize("command", LONG_RUNNING)
def test_every_process_refuses_them(service: Service, command: str) -> None:
    assert "SOFT_LIMIT=900" in refused(service, command, soft_limit=900)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("result_ttl", "a day"),
        ("lease", "-1"),
        ("max_deliveries", "0"),
        ("log_level", "LOUD"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(service: Service, setting: str, value: str) -> None:
    assert setting.upper() in refused(service, "worker", **{setting: value}).upper()


def test_an_address_that_can_be_no_brokers_is_refused_by_name(service: Service) -> None:
    setting, value = service.installed.stack.bad_setting
    assert setting.upper() in refused(service, "worker", **{setting: value})


@pytest.mark.parametrize("command", LONG_RUNNING)
def test_a_missing_broker_address_is_named_with_the_way_out(service: Service, command: str) -> None:
    variable = service.installed.stack.broker_variable
    address = service.environment.pop(variable)
    try:
        said = refused(service, command)
    finally:
        service.environment[variable] = address
    assert f"{variable} is not set" in said
    assert "dev" in said


def test_a_queue_that_does_not_exist_is_refused_when_the_worker_starts(service: Service) -> None:
    said = service.cli("worker", "--queue", "express", code=2)
    assert "express" in said
    assert "default" in said, "it lists those there are"
