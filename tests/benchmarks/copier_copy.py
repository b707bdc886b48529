"""How long `copier copy` of the default service takes, beside a template of one file: start-up, git and all.

    uv run --frozen python tests/benchmarks/copier_copy.py --rounds 7

The two take turns, so that a busy moment hits both. Prints medians, and the median of the rounds' ratios; that of CPU
time is the one which neighbours on the machine disturb least.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
GIT = ["git", "-c", "user.name=Benchmark", "-c", "user.email=benchmark@example.org", "-c", "commit.gpgsign=false"]


def repository(folder: Path) -> Path:
    """What lies in the folder, as a release."""
    for arguments in (
        ["init", "--quiet"],
        ["add", "--all", "--force"],
        ["commit", "--quiet", "-m", "One"],
        ["tag", "v1"],
    ):
        subprocess.run([*GIT, *arguments], cwd=folder, check=True)
    return folder


def seconds(template: Path, target: Path) -> tuple[float, float]:
    """By the clock, and of CPU."""
    copy = [sys.executable, "-m", "copier", "copy", "--quiet", "--defaults", str(template), str(target)]
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(copy, check=True)
    taken, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with TemporaryDirectory() as scratch:
        ours, one_file = Path(scratch, "ours"), Path(scratch, "one-file")
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(ours)], check=True)
        subprocess.run(["rm", "-rf", str(ours / ".git")], check=True)
        one_file.mkdir()
        (one_file / "copier.yml").write_text("name: {type: str, default: service}\n")
        (one_file / "README.md.jinja").write_text("# {{ name }}\n")
        taken: dict[Path, list[tuple[float, float]]] = {repository(ours): [], repository(one_file): []}
        for number in range(rounds + 1):  # the first fills the caches
            for template, times in taken.items():
                times.append(seconds(template, Path(scratch, f"{template.name}-{number}")))
    for number, what in enumerate(("clock", "CPU")):
        own, one = ([time[number] for time in times[1:]] for times in taken.values())
        ratio = statistics.median(a / b for a, b in zip(own, one, strict=True))
        medians = f"default service {statistics.median(own):.2f} s, one file {statistics.median(one):.2f} s"
        print(f"{what}: {medians}, {ratio:.2f} times ({rounds} rounds)")


if __name__ == "__main__":
    main()
