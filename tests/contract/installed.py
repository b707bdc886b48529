"""Renders a service from the working tree and installs it, as its developer would; the tests' own jobs come along."""

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from copier import run_copy

from .stacks import STACKS, Stack

TEMPLATE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Installed:
    """One combination of answers, rendered and installed with the probe jobs among its own."""

    folder: Path
    stack: Stack
    package: str
    slug: str

    @classmethod
    def render(cls, folder: Path, stack: str, answers: Mapping[str, Any], python: str = "") -> "Installed":
        """Render the working tree into `folder`, add the probes, and install it for `python`, or that of the tests."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Copier says that the working tree has uncommitted changes
            run_copy(
                str(TEMPLATE),
                folder,
                data={**STACKS[stack].answers, **answers},
                defaults=True,
                quiet=True,
                vcs_ref="HEAD",
            )
        [package] = [path.parent.name for path in folder.glob("src/*/contract.py")]
        installed = cls(folder, STACKS[stack], package, str(answers.get("project_slug", package.replace("_", "-"))))
        jobs = folder / "src" / package / "jobs"
        for name, source in installed.stack.probes.items():
            shutil.copy(source, jobs / name)
        uv = os.environ.get("UV") or shutil.which("uv")
        assert uv, "uv is not on PATH; the tests install the rendered service with it"
        environment = {**os.environ, "UV_PYTHON": python or os.environ.get("UV_PYTHON", sys.executable)}
        environment.pop("VIRTUAL_ENV", None)
        done = subprocess.run([uv, "sync", "--quiet"], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"`uv sync` of the rendered service failed:\n{done.stderr}"
        return installed

    def remove_probes(self) -> None:
        """Leave only the service's own jobs."""
        for name in self.stack.probes:
            (self.folder / "src" / self.package / "jobs" / name).unlink()

    @property
    def python(self) -> Path:
        return self.folder / ".venv" / "bin" / "python"

    @property
    def script(self) -> Path:
        return self.folder / ".venv" / "bin" / self.slug
