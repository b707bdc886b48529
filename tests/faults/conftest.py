"""The same services as in tests/contract, in the ways that life ends, delays and breaks what they do.

    uv run pytest tests/faults --stack arq [--all]

Without `--all` a covering selection runs, the one of CI; `sh scripts/test.sh faults` runs all of it on every stack.
"""

from ..contract.conftest import (
    installed,
    pytest_collection_modifyitems,
    pytest_ignore_collect,
    pytest_runtest_makereport,
    pytest_runtest_setup,
    pytest_terminal_summary,
    service,
    session_outage,
    session_service,
)

__all__ = [
    "installed",
    "pytest_collection_modifyitems",
    "pytest_ignore_collect",
    "pytest_runtest_makereport",
    "pytest_runtest_setup",
    "pytest_terminal_summary",
    "service",
    "session_outage",
    "session_service",
]
