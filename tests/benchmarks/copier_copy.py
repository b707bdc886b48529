"""How long `copier copy` and `copier update` of the default service take, beside a template of one file: start-up, git
and all. The update is to a release in which one file differs; beside the one file is an answers file, as it must be.
A third template has as many files as the service, all plain, and asks nothing: what it takes is Copier's own.

    uv run --frozen python tests/benchmarks/copier_copy.py --rounds 7

They take turns, so that a busy moment hits both. Prints medians, and the median of the rounds' ratios; that of CPU
time is the one which neighbours on the machine disturb least.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
GIT = ["git", "-c", "user.name=Benchmark", "-c", "user.email=benchmark@example.org", "-c", "commit.gpgsign=false"]


def git(folder: Path, *arguments: str) -> None:
    subprocess.run([*GIT, *arguments], cwd=folder, check=True)


def commit(folder: Path, tag: str) -> None:
    git(folder, "init", "--quiet")
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "-m", tag)
    git(folder, "tag", tag)


def copier(command: str, *arguments: str | Path) -> tuple[float, float]:
    """Seconds by the clock, and of CPU."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "copier", command, "--quiet", "--defaults", *arguments], check=True)
    taken, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def prepare(template: Path, changed: str) -> None:
    """Two releases that differ in this file, and a copy of the first."""
    commit(template, "v1")
    copied = template.with_suffix(".copy")
    copier("copy", "--vcs-ref=v1", template, copied)
    commit(copied, "copied")
    with (template / changed).open("a") as file:
        file.write("More.\n")
    commit(template, "v2")
    git(template, "gc", "--quiet")  # packed, as a server has it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # users have bytecode: an import takes a third of the time
    with TemporaryDirectory() as scratch:
        ours, one_file, plain = Path(scratch, "ours"), Path(scratch, "one-file"), Path(scratch, "plain")
        git(Path(scratch), "clone", "--quiet", "--no-hardlinks", str(ROOT), str(ours))
        shutil.rmtree(ours / ".git")
        one_file.mkdir()
        (one_file / "copier.yml").write_text("name: {type: str, default: service}\n")
        (one_file / "README.md.jinja").write_text("# {{ name }}\n")
        (one_file / "{{_copier_conf.answers_file}}.jinja").write_text("{{ _copier_answers | to_nice_yaml }}")
        prepare(ours, "template/README.md.jinja")
        prepare(one_file, "README.md.jinja")
        listed = subprocess.check_output([*GIT, "ls-files"], cwd=ours.with_suffix(".copy"), text=True)
        for number in range(len(listed.splitlines())):
            (file := plain / str(number % 10) / f"{number}.py").parent.mkdir(parents=True, exist_ok=True)
            file.write_text("x = 1\n" * 100)
        shutil.copy(one_file / "{{_copier_conf.answers_file}}.jinja", plain)
        prepare(plain, "0/0.py")
        taken: dict[tuple[str, Path], list[tuple[float, float]]] = {}
        for number in range(rounds + 1):  # the first fills the caches
            for template in (ours, one_file, plain):
                folder = template.with_suffix(f".{number}")
                taken.setdefault(("copy", template), []).append(copier("copy", template, folder))
                shutil.rmtree(folder)
                shutil.copytree(template.with_suffix(".copy"), folder, symlinks=True)
                taken.setdefault(("update", template), []).append(copier("update", folder))
                shutil.rmtree(folder)
    for command in ("copy", "update"):
        for number, what in enumerate(("clock", "CPU")):
            one = [time[number] for time in taken[command, one_file][1:]]
            print(f"{command}, {what}: one file {statistics.median(one):.2f} s ({rounds} rounds)")
            for side, name in ((ours, "default service"), (plain, "as many plain files")):
                own = [time[number] for time in taken[command, side][1:]]
                ratio = statistics.median(a / b for a, b in zip(own, one, strict=True))
                print(f"    {name} {statistics.median(own):.2f} s, {ratio:.2f} times")


if __name__ == "__main__":
    main()
