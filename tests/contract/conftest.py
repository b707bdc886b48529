"""One installed service per session; a test starts as many running ones from it as it needs, or shares its module's.

tests/faults uses what is here, too.
"""

import os
import re
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from .installed import Installed
from .outage import Outage, outage
from .parts import Parts
from .service import Service, running
from .stacks import CHOICES, STACKS


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`test_<stack>*.py` and `test_<choice>*.py` hold what only that answer promises; the other files are for all."""
    answers = {**STACKS[config.getoption("stack", "celery")].answers, **given(config)}
    chosen = {word for answer in answers.values() for word in re.findall(r"\w+", str(answer))}
    others = {*(stack.answers["stack"] for stack in STACKS.values()), *CHOICES} - chosen
    of_another = any(re.fullmatch(rf"test_{name}(_\w+)?\.py", collection_path.name) for name in others)
    return True if of_another else None


def given(config: pytest.Config) -> dict[str, str]:
    """Each `--answer`."""
    return dict(answer.split("=", 1) for answer in config.getoption("answer", None) or [])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take out what has no meaning on this stack (`Stack.meaningless`), and say so at the end; and what is thorough."""
    stack = STACKS[config.getoption("stack", "celery")]
    out = {item: why for item in items if ours(item) and (why := stack.why_meaningless(identity(item)))}
    thorough = [item for item in items if item.get_closest_marker("thorough") and not config.getoption("--all")]
    if thorough:
        items[:] = [item for item in items if item not in thorough]
        config.hook.pytest_deselected(items=thorough)
    if out:
        items[:] = [item for item in items if item not in out]
        config.hook.pytest_deselected(items=[*out])
        config.stash[OUT] = [f"{identity(item)}: {why}" for item, why in out.items()]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if taken_out := config.stash.get(OUT, None):
        terminalreporter.section(f"without meaning on stack {config.getoption('stack', 'celery')}")
        for line in taken_out:
            terminalreporter.write_line(line)


OUT = pytest.StashKey[list[str]]()


def ours(item: pytest.Item) -> bool:
    return item.path.parent.name in ("contract", "faults")


def identity(item: pytest.Item) -> str:
    """The id without the folder."""
    return f"{item.path.name}::{item.nodeid.partition('::')[2]}"


@pytest.fixture(scope="session")
def installed(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """The service under test, rendered and installed. CONTRACT_KEEP=1 keeps its folder and says where it is."""
    folder = tmp_path_factory.mktemp("contract") / "service"
    yield Installed.render(folder, pytestconfig.getoption("stack", "celery"), given(pytestconfig))
    if os.environ.get("CONTRACT_KEEP"):
        print(f"\nkept: {folder}")
    else:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def session_service(installed: Installed) -> Iterator[Service]:
    with running(installed) as service:
        yield service


@pytest.fixture
def service(session_service: Service) -> Service:
    """The shared one, with one worker on all queues. A test that stops a part of it starts its own."""
    session_service.wait_for_workers(1)
    return session_service


@pytest.fixture(scope="session", name="outage")
def session_outage(installed: Installed) -> Iterator[Outage]:
    with outage(installed) as started:
        yield started


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    Parts.shown = [parts for parts in Parts.shown if parts.open]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for service in Parts.shown:
            for log in sorted((service.folder / "logs").glob("*.log")):
                if tail := last_lines(log):
                    report.sections.append((f"{service.name} {log.stem}", tail))
    return report


def last_lines(log: Path, count: int = 40) -> str:
    """Without the requests that only looked."""
    lines = (line for line in log.read_text(errors="replace").splitlines() if "GET /" not in line)
    return "\n".join(list(lines)[-count:])
