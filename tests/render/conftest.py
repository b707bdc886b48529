"""One export and one rendering of the combinations, shared by all render tests."""

import pytest

from .rendering import Renderer, Service, combinations, export


@pytest.fixture(scope="session")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    return Renderer(export(tmp_path_factory.mktemp("template")))


@pytest.fixture(scope="session")
def services(renderer: Renderer) -> list[Service]:
    """The default answers first, then the combinations."""
    return [renderer.render({}), *map(renderer.render, combinations())]


@pytest.fixture(scope="session")
def default(services: list[Service]) -> Service:
    return services[0]


@pytest.fixture(scope="session")
def contents(services: list[Service]) -> dict[tuple[str, bytes], Service]:
    """Each distinct file of these services, with the first service that has it."""
    found: dict[tuple[str, bytes], Service] = {}
    for service in services:
        for path, content in service.files.items():
            found.setdefault((path, content), service)
    return found
