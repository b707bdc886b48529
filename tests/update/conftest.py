"""The repository of all releases once, each kind of service rendered once; a test edits a copy of its own."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from .updating import Service, copied, published

Start = Callable[..., Service]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if collection_path.name == "test_live.py" and not config.getoption("live", False) else None


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("published") / "template")


@pytest.fixture(scope="session")
def _started(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Mapping[str, Any]], Service]:
    known: dict[str, Service] = {}

    def start(version: str, answers: Mapping[str, Any]) -> Service:
        key = repr((version, sorted(answers.items())))
        if key not in known:
            known[key] = copied(template, tmp_path_factory.mktemp("service") / "service", version, answers)
        return known[key]

    return start


@pytest.fixture
def start(_started: Callable[[str, Mapping[str, Any]], Service], tmp_path: Path) -> Start:
    """A service of a version, committed: `start("v0.2.0", stack="arq")`."""

    def begin(version: str, **answers: Any) -> Service:
        return _started(version, answers).copy(tmp_path / f"service{len(list(tmp_path.iterdir()))}")

    return begin
