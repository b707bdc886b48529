"""Releases: each is kept and renders, and the script makes none by mistake."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ..render.matrix import Matrix
from ..render.rendering import ROOT, choices, export
from .updating import RELEASES, STACKS, commit, git, unpack


@pytest.mark.parametrize("release", RELEASES)
def test_each_release_renders_on_every_stack_that_it_had(release: str, tmp_path: Path) -> None:
    folder = unpack(release, tmp_path)
    assert {path.name for path in folder.iterdir()} == {"copier.yml", "template", "questions", "hooks"}
    questions = yaml.safe_load((folder / "copier.yml").read_text())
    stacks = choices(questions["stack"])
    assert stacks == STACKS.get(release, stacks)
    for stack in stacks:
        assert "pyproject.toml" in Matrix(folder).render({"stack": stack}).files


def test_the_changelog_and_the_snapshots_name_the_same_releases() -> None:
    headings = re.findall(r"^## (\d+\.\d+\.\d+) – \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(RELEASES)
    newest = (ROOT / "pyproject.toml").read_text().partition('version = "')[2].partition('"')[0]
    assert headings[0] == newest


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """What could be released as 1000.0.0."""
    folder = export(tmp_path / "repository")
    changelog = folder / "CHANGELOG.md"
    changelog.write_text(
        re.sub(r"(?s)(## Unreleased\n).*?(?=\n## )", r"\1\n- Jobs run twice as fast.\n", changelog.read_text())
    )
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "config", "user.name", "Test")
    git(folder, "config", "user.email", "test@example.org")
    commit(folder, "Ready")
    return folder


def release(repository: Path, version: str = "1000.0.0") -> tuple[int, str]:
    """Its exit code and what it said."""
    command = [sys.executable, "scripts/release.py", version]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_release_is_a_section_a_version_a_snapshot_and_a_tag(repository: Path) -> None:
    code, said = release(repository)
    assert (code, said) == (0, "v1000.0.0 is tagged. Push it with its commit: git push --follow-tags\n")
    assert git(repository, "describe") == "v1000.0.0\n"
    assert git(repository, "status", "--porcelain") == ""
    changelog = (repository / "CHANGELOG.md").read_text()
    assert re.search(
        r"## Unreleased\n\n## 1000\.0\.0 – \d{4}-\d\d-\d\d\n\n- Jobs run twice as fast\.\n\n## ", changelog
    )
    for name in ("pyproject.toml", "uv.lock"):
        assert '\nname = "copier-async-jobs"\nversion = "1000.0.0"\n' in (repository / name).read_text()
    kept = repository / "tests/update/releases/1000.0.0.tar.xz"
    unpacked = repository.parent / "unpacked"
    unpacked.mkdir()
    subprocess.run(["tar", "--extract", "--file", str(kept), "--directory", str(unpacked)], check=True)
    subprocess.run(["diff", "--recursive", str(unpacked / "template"), str(repository / "template")], check=True)
    assert release(repository, "1000.0.1") == (
        1,
        'CHANGELOG.md says nothing under "Unreleased": a service\'s owner must learn what changes\n',
    )


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("v1000.0.0", "'v1000.0.0' is no version: give three numbers, for example 0.4.0"),
        ("0.1.0", "0.1.0 is not newer than "),
        ("1000.0.1", "The tag v1000.0.1 is there already: take the next version"),
        ("1000.0.2", "Commit or stash these changes first:\n?? forgotten.txt"),
    ],
)
def test_a_release_is_refused_and_nothing_is_changed(repository: Path, version: str, told: str) -> None:
    git(repository, "tag", "v1000.0.1")
    if version == "1000.0.2":
        (repository / "forgotten.txt").touch()
    before = git(repository, "rev-parse", "HEAD"), git(repository, "status", "--porcelain"), git(repository, "tag")
    code, said = release(repository, version)
    assert code == 1
    assert said.startswith(told)
    assert before == (
        git(repository, "rev-parse", "HEAD"),
        git(repository, "status", "--porcelain"),
        git(repository, "tag"),
    )
