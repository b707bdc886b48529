"""Every release as a tag of one repository, and services that are made from it, edited and updated in this process.

An update of the stock command takes seconds, most of them start-up and Jinja that is compiled again for each part of
each path; here each source is compiled once, as in tests/render, and git is not asked about each file.
UPDATE_STOCK=1 leaves Copier as it is.
"""

import io
import lzma
import os
import shutil
import subprocess
import tarfile
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import copier
import jinja2
import pytest
import yaml
from copier._jinja_ext import get_yield_context

from ..render.rendering import ANSWERS_FILE, ROOT, export

RELEASES = {
    path.name.removesuffix(".tar.xz"): path for path in sorted((ROOT / "tests/update/releases").glob("*.tar.xz"))
}
STACKS = {"0.1.0": ["celery"], "0.2.0": ["celery", "arq"]}
"""What the first releases had; all later ones have all."""
NEXT = "v1000.0.0"
"""The working tree, each of whose Python files got a line on top: what the next release may change."""
FIX = "# a fix of the next release\n"
MARKER = b"<<<<<<< "
GIT = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run([*GIT, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def commit(folder: Path, message: str, tag: str = "") -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", message)
    if tag:
        git(folder, "tag", tag)


def clear(folder: Path) -> None:
    """Leave nothing but what git keeps for itself."""
    for path in folder.iterdir():
        if path.name != ".git":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def unpack(release: str, folder: Path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(RELEASES[release].read_bytes()))) as archive:
        archive.extractall(folder, filter="data")
    return folder


def published(folder: Path) -> Path:
    """A repository with a tag for each release, and NEXT."""
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    for release in RELEASES:
        clear(folder)
        commit(unpack(release, folder), f"Release {release}", f"v{release}")
    clear(folder)
    export(folder)
    for path in (folder / "template").rglob("*.py*"):
        path.write_text(f"{FIX}{path.read_text()}")
    commit(folder, "The next release", NEXT)
    git(folder, "gc", "--quiet")  # Copier clones it again and again, and removes each loose object
    return folder


def released_stacks() -> list[tuple[str, str]]:
    """Each release with each stack that it had."""
    return [(release, stack) for release in RELEASES for stack in STACKS.get(release, ["celery", "arq", "temporal"])]


@dataclass(frozen=True)
class Service:
    """A rendered service in a git repository of its own."""

    folder: Path

    @property
    def package(self) -> Path:
        return next(self.folder.glob("src/*/contract.py")).parent

    def files(self) -> dict[str, bytes]:
        """Each file but git's own by its path."""
        paths = [path for path in self.folder.rglob("*") if path.is_file() and path.name != ".git"]
        named = {path.relative_to(self.folder).as_posix(): path for path in paths}
        return {name: path.read_bytes() for name, path in named.items() if not name.startswith(".git/")}

    def answers(self) -> dict[str, Any]:
        return yaml.safe_load((self.folder / ANSWERS_FILE).read_text())

    def conflicts(self) -> list[str]:
        return sorted(name for name, content in self.files().items() if MARKER in content)

    def commit(self, message: str = "Edited") -> None:
        commit(self.folder, message)

    def copy(self, folder: Path) -> "Service":
        shutil.copytree(self.folder, folder)
        return Service(folder)

    def update(self, to: str = NEXT, **answers: Any) -> None:
        """`copier update` without --trust; raises what it raises."""
        with _quick():
            copier.run_update(
                self.folder, data=answers, vcs_ref=to, defaults=True, overwrite=True, quiet=True, unsafe=False
            )

    def switch(self, **answers: Any) -> None:
        """Other answers on the same version."""
        with _quick():
            copier.run_update(
                self.folder,
                data=answers,
                vcs_ref=copier.VcsRef.CURRENT,
                defaults=True,
                overwrite=True,
                quiet=True,
                unsafe=False,
            )


def copied(template: Path, folder: Path, version: str, answers: Mapping[str, Any]) -> Service:
    """`copier copy` of a version, committed."""
    with _quick():
        copier.run_copy(str(template), folder, data=dict(answers), vcs_ref=version, defaults=True, quiet=True)
    git(folder, "init", "--quiet")
    commit(folder, "Start")
    return Service(folder)


def is_owned_by_the_team(path: str) -> bool:
    """What an update never touches."""
    return path.startswith("tests/") or "/jobs/" in path


def template_owned(files: Mapping[str, bytes], but: Sequence[str] = ()) -> dict[str, bytes]:
    return {path: content for path, content in files.items() if not is_owned_by_the_team(path) and path not in but}


def recorded(service: Service) -> dict[str, Any]:
    """The answers, to render another service with."""
    return {name: value for name, value in service.answers().items() if name[0] != "_"}


_compiled: dict[tuple[str, str | None, str | None], Any] = {}
_compile = jinja2.Environment.compile


def _compile_once(
    self: jinja2.Environment,
    source: Any,
    name: str | None = None,
    filename: str | None = None,
    raw: bool = False,
    defer_init: bool = False,
) -> Any:
    if raw or not isinstance(source, str):
        return _compile(self, source, name, filename, raw, defer_init)
    context = get_yield_context(self)  # what Copier's extension resets on each compilation
    context.yield_name = context.yield_iterable = None
    key = (source, name, filename)
    if key not in _compiled:
        _compiled[key] = _compile(self, source, name, filename, raw, defer_init)
    return _compiled[key]


@contextmanager
def _quick() -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not os.environ.get("UPDATE_STOCK"):
            patch.setattr(jinja2.Environment, "compile", _compile_once)
            # asks git about each file, and does nothing where git sees file modes
            patch.setattr("copier._main.Worker._sync_git_index_executable_bit", lambda *_: None)
        yield
