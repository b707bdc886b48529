"""Release the template: `python scripts/release.py 0.4.0` on a clean main whose CI is green.

Moves what CHANGELOG.md says under "Unreleased" under the version, sets the version in pyproject.toml and uv.lock, keeps
the template as tests/update/releases/VERSION.tar.xz (tags do not always travel; the tests update services from these),
commits, and tags v0.4.0. Push both: `git push --follow-tags`.
"""

import lzma
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
RELEASES = ROOT / "tests/update/releases"
PARTS = ["copier.yml", "template", "questions", "hooks"]
"""All that Copier reads of the repository."""


def release(version: str) -> None:
    """Exits with a message, and has changed nothing, if something stands against it."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        sys.exit(f"{version!r} is no version: give three numbers, for example 0.4.0")
    newest = max((path.name.removesuffix(".tar.xz") for path in RELEASES.glob("*.tar.xz")), key=_numbers)
    if _numbers(version) <= _numbers(newest):
        sys.exit(f"{version} is not newer than {newest}, the last release")
    if git("tag", "--list", f"v{version}"):
        sys.exit(f"The tag v{version} is there already: take the next version")
    if changed := git("status", "--porcelain"):
        sys.exit(f"Commit or stash these changes first:\n{changed}")
    changelog = (ROOT / "CHANGELOG.md").read_text()
    _, _, news = changelog.partition("## Unreleased\n")
    if not news.partition("\n## ")[0].strip():
        sys.exit('CHANGELOG.md says nothing under "Unreleased": a service\'s owner must learn what changes')

    heading = f"## {version} – {datetime.now(UTC):%Y-%m-%d}\n"
    _write("CHANGELOG.md", changelog.replace("## Unreleased\n", f"## Unreleased\n\n{heading}", 1))
    for name, before in (("pyproject.toml", ""), ("uv.lock", 'name = "copier-async-jobs"\n')):
        text = (ROOT / name).read_text()
        _write(name, re.sub(rf'({before}version = )"[\d.]+"', rf'\g<1>"{version}"', text, count=1))
    snapshot("HEAD", RELEASES / f"{version}.tar.xz")
    git("add", "--all")
    git("commit", "--quiet", "--message", f"Release {version}")
    git("tag", "--annotate", f"v{version}", "--message", f"Release {version}")
    print(f"v{version} is tagged. Push it with its commit: git push --follow-tags")


def snapshot(revision: str, target: Path) -> None:
    """Keep the template as it is at a revision; the same revision gives the same bytes."""
    archive = subprocess.check_output(["git", "archive", revision, *PARTS], cwd=ROOT)
    target.write_bytes(lzma.compress(archive, preset=9 | lzma.PRESET_EXTREME))


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.rstrip()


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def _write(name: str, text: str) -> None:
    (ROOT / name).write_text(text)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    release(sys.argv[1])
