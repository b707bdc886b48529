"""The real `copier` command on a git clone: the same output as the matrix has, no trust, and safe updates."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from .matrix import Matrix
from .rendering import ANSWERS_FILE, RECORDED

COPIER = [sys.executable, "-m", "copier"]
GIT = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run([*GIT, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--message", message)


def copier(command: str, *arguments: str) -> str:
    """Run it without --trust; its messages."""
    done = subprocess.run([*COPIER, command, "--defaults", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def read(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and ".git" not in path.relative_to(folder).parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def repository(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a git repository with one release."""
    folder = tmp_path_factory.mktemp("repository")
    subprocess.run(["cp", "-r", f"{template}/.", str(folder)], check=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "First release")
    git(folder, "tag", "v1.0.0")
    return folder


def test_stock_copier_renders_what_the_matrix_has(repository: Path, matrix: Matrix, tmp_path: Path) -> None:
    """In the covering set; and the answers file records what was answered, nothing computed and nothing not asked."""
    for number, answers in enumerate(matrix.covering):
        service, folder = matrix.render(answers), tmp_path / str(number)
        given = {name: service.answers[name] for name in RECORDED}
        data = [argument for name, value in given.items() for argument in ("--data", f"{name}={value}")]
        copier("copy", "--quiet", *data, str(repository), str(folder))
        stock = read(folder)
        recorded = yaml.safe_load(stock.pop(ANSWERS_FILE))
        assert stock == service.files, service.label
        recorded = {name: value for name, value in recorded.items() if not name.startswith("_")}
        assert recorded == {name: given[name] for name in recorded}
        assert all("when" in RECORDED[name] for name in given.keys() - recorded.keys())


def test_the_message_says_what_was_answered_and_what_to_do_next(repository: Path, tmp_path: Path) -> None:
    folder = tmp_path / "desk"
    message = copier("copy", "--data", "project_name=Order Desk", "--data", "api=no", str(repository), str(folder))
    assert "queues          critical, default, bulk" in message
    assert "api             False" in message
    assert f"cd {folder}\n" in message
    assert ".uv/bin/uv run order-desk demo\n" in message


def test_an_update_brings_fixes_and_leaves_the_users_files_alone(repository: Path, tmp_path: Path) -> None:
    template = tmp_path / "template"
    git(tmp_path, "clone", "--quiet", str(repository), str(template))
    folder = tmp_path / "service"
    copier("copy", "--quiet", "--data", "project_slug=order-desk", str(template), str(folder))
    git(folder, "init", "--quiet")
    package = folder / "src/order_desk"
    theirs = [
        path for place in (package / "jobs", folder / "tests") for path in sorted(place.rglob("*")) if path.is_file()
    ]
    edited, deleted, *_ = [path for path in theirs if path.parent == package / "jobs" and path.name != "__init__.py"]
    edited.write_text("# ours now\n")
    deleted.unlink()
    (package / "jobs/invoices.py").write_text("# a new one\n")
    (package / "contract.py").write_text((package / "contract.py").read_text() + "\n# our note at the end\n")
    commit(folder, "Make it ours")
    before = read(folder)

    for path in (template / "template").rglob("*.py*"):
        path.write_text(f"# changed in v1.1\n{path.read_text()}")
    commit(template, "Second release")
    git(template, "tag", "v1.1.0")
    message = copier("update", str(folder))

    after = read(folder)
    owned = {path for path in before | after if path.startswith(("src/order_desk/jobs/", "tests/"))}
    assert {path: before.get(path) for path in owned} == {path: after.get(path) for path in owned}
    assert not deleted.exists()
    ours = after["src/order_desk/contract.py"].decode()
    assert ours.startswith("# changed in v1.1\n")
    assert ours.endswith("# our note at the end\n")
    assert after["src/order_desk/queues.py"].startswith(b"# changed in v1.1\n")
    assert b"project_slug: order-desk" in after[ANSWERS_FILE]
    assert "git grep -nE '^(<<<<<<<|>>>>>>>) '" in message


def test_an_answer_can_be_changed_without_a_new_release(repository: Path, tmp_path: Path) -> None:
    folder = tmp_path / "service"
    copier("copy", "--quiet", str(repository), str(folder))
    git(folder, "init", "--quiet")
    commit(folder, "Start")
    copier("update", "--vcs-ref=:current:", "--data", "api=false", "--data", "queues=[default, low]", str(folder))
    changed = read(folder)
    assert yaml.safe_load(changed[ANSWERS_FILE])["api"] is False
    assert b"fastapi" not in changed["pyproject.toml"]
    assert b'Queue("low"' in changed["src/my_service/queues.py"]
    assert not (folder / "src/my_service/api").exists()
    assert not (folder / "deploy").exists(), "nothing is left for Prometheus to read"
