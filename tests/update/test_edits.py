"""An update of a service that people live in: from every release, on each of its stacks, with edits of each kind."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Start
from .leftovers import findings
from .updating import FIX, MARKER, NEXT, Service, is_owned_by_the_team, recorded, released_stacks, template_owned

RELEASED = pytest.mark.parametrize(("release", "stack"), released_stacks())
NOTE = "\n# our note at the end\n"
OURS = '    "boto3>=1.40",\n'


def live_in(service: Service) -> None:
    """An edit of each kind, committed."""
    package = service.package
    _edit(package / "jobs/orders.py", lambda text: f"{text}\n\ndef ours() -> None:\n    pass\n")
    (package / "jobs/reports.py").unlink()
    (package / "jobs/invoices.py").write_text("# a job of ours\n")
    _edit(service.folder / "tests/conftest.py", lambda text: f"# ours\n{text}")
    (service.folder / "tests/test_jobs.py").unlink()
    _edit(
        package / "dev/processes.py", lambda text: text + NOTE
    )  # the next release changes the first line of each module
    _edit(package / "health.py", lambda text: text.replace('"""', '"""Our own words.\n', 1))
    (package / "dev/gateway.py").unlink()
    _edit(package / "queues.py", lambda text: re.sub(r'( +Queue\()"default"(.*\n)', r'\g<0>\1"partner"\2', text))
    _edit(
        service.folder / "pyproject.toml",
        lambda text: text.replace("dependencies = [\n", f"dependencies = [\n{OURS}", 1),
    )
    service.commit()


def _edit(path: Path, change: Callable[[str], str]) -> None:
    before = path.read_text()
    path.write_text(change(before))
    assert path.read_text() != before


@RELEASED
def test_an_update_merges_what_the_team_changed_and_marks_what_it_cannot(
    start: Start, release: str, stack: str
) -> None:
    service = start(f"v{release}", stack=stack)
    live_in(service)
    before, package = service.files(), service.package.relative_to(service.folder).as_posix()
    service.update()
    after = service.files()

    theirs = [{path: it for path, it in files.items() if is_owned_by_the_team(path)} for files in (before, after)]
    assert theirs[0] == theirs[1], "jobs/ and tests/ are byte for byte the team's"

    assert service.conflicts() == [f"{package}/health.py"], "only where both changed the same line"
    [told] = [finding for finding in findings(service) if finding.problem == "an update left a conflict"]
    assert told.where.startswith(f"{package}/health.py:")
    assert b"Our own words." in after[f"{package}/health.py"], "and nothing of either side is lost"
    assert FIX.encode() in after[f"{package}/health.py"]

    for path in (f"{package}/dev/processes.py", f"{package}/queues.py"):
        assert after[path].startswith(FIX.encode())
    assert after[f"{package}/dev/processes.py"].endswith(NOTE.encode())
    assert OURS.encode() in after["pyproject.toml"]
    queues = re.findall(rb'Queue\("(\w+)", concurrency', after[f"{package}/queues.py"])
    assert queues == [b"critical", b"default", b"partner", b"bulk"]
    assert f"{package}/dev/gateway.py" not in after, "what the team deleted stays deleted"
    assert f"{package}/dev/gateway.py" in {finding.where for finding in findings(service)}

    edited = [f"{package}/{name}" for name in ("dev/processes.py", "health.py", "queues.py", "dev/gateway.py")]
    fresh = start(NEXT, **recorded(service)).files()
    assert template_owned(after, [*edited, "pyproject.toml"]) == template_owned(fresh, [*edited, "pyproject.toml"])


@pytest.mark.parametrize(("release", "stack"), [("0.1.0", "celery"), ("0.2.0", "arq"), ("0.3.0", "temporal")])
def test_an_update_without_edits_renders_what_a_copy_renders(start: Start, release: str, stack: str) -> None:
    service = start(f"v{release}", stack=stack, project_name="Order Desk", queues=["default", "low"], api=False)
    service.update()
    assert template_owned(service.files()) == template_owned(start(NEXT, **recorded(service)).files())
    assert findings(service) == []


def test_lines_of_the_team_are_in_a_file_or_in_git(start: Start) -> None:
    """A file that the template drops goes, with the team's edits of it: they were committed, as Copier demands."""
    service = start("v0.1.0")
    owned = [path for path in sorted(service.package.rglob("*.py")) if "jobs" not in path.parts]
    for path in owned:
        path.write_text(path.read_text() + NOTE)
    service.commit()
    service.update()
    dropped = [path for path in owned if not path.exists()]
    assert {path.name for path in dropped} == {"metrics.py", "patience.py"}
    assert all(NOTE in path.read_text() for path in owned if path not in dropped)


def test_a_rejected_change_is_told(start: Start) -> None:
    """With `copier update --conflict rej`."""
    service = start(NEXT)
    (service.package / "health.py.rej").write_text("@@ -1 +1 @@\n")
    assert [finding.problem for finding in findings(service)] == ["an update could not apply this change"]


def test_a_marker_that_stands_for_itself_is_no_conflict(start: Start) -> None:
    service = start(NEXT)
    (service.folder / "notes.md").write_text(f"git writes {MARKER.decode()}ours\n\n{MARKER.decode()}\n=======\n")
    assert findings(service) == []


def test_what_a_newer_question_adds_does_not_come_by_itself(start: Start) -> None:
    """A new service has monitoring and CI unless it says no; one of 0.1.0, which was never asked, has none."""
    service = start("v0.1.0")
    service.update()
    assert recorded(service).items() >= {"ci": "none", "monitoring": []}.items()
    assert not (service.folder / ".github").exists()
    assert recorded(start(NEXT, package="desk")).items() >= {"ci": "github", "monitoring": ["prometheus"]}.items()
