"""What the tests of a running service can be asked for on the command line."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("service")
    group.addoption("--stack", default="celery", help="the stack to render")
    group.addoption(
        "--answer", action="append", metavar="KEY=VALUE", help="another answer than the default; repeatable"
    )
    parser.addoption("--live", action="store_true", help="of tests/update, the live deployments, too: 10 minutes")
    parser.addoption("--all", action="store_true", help="of tests/faults, what is marked `thorough`, too")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "thorough: one more sample of a kind that CI has a smaller selection of (--all)")
