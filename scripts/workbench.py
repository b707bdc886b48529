"""A maintainer's workbench: a service that runs while one edits the template, and the files that answers bring.

    uv run scripts/workbench.py run stack=arq api=false     starts it; plain files are links back into template/
    uv run scripts/workbench.py files stack=temporal        each layer and file, with the answers that a file reads

Of a service that runs, edits of plain files are seen at once, as `dev` restarts what changed; after an edit of a .jinja
file run it again. It lies in .workbench/, a folder for each set of answers.
"""

import os
import shutil
import sys
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = ROOT / "template"
sys.path.insert(0, str(ROOT))

from tests.render.matrix import Matrix  # noqa: E402
from tests.render.rendering import RECORDED, export  # noqa: E402


def main(command: str = "", *given: str) -> int:
    answers = dict(answer.partition("=")[::2] for answer in given)
    if command not in COMMANDS or not answers.keys() <= RECORDED.keys():
        print(f"{__doc__}\nAnswers: {', '.join(RECORDED)}", file=sys.stderr)
        return 2
    try:
        with TemporaryDirectory() as scratch:
            return COMMANDS[command](Matrix(export(Path(scratch))), answers)
    except ValueError as refusal:
        print(refusal, file=sys.stderr)
        return 2


def run(matrix: Matrix, answers: Mapping[str, str]) -> int:
    service = matrix.render(answers)
    folder = ROOT / ".workbench" / (",".join(f"{name}={value}" for name, value in answers.items()) or "default")
    folder.mkdir(parents=True, exist_ok=True)
    for old in {*folder.iterdir()} - {folder / kept for kept in (".venv", "uv.lock", "var")}:
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    service.write(folder)
    for path, file in matrix.sources(service).items():
        if file.plain:
            (folder / path).unlink()
            (folder / path).symlink_to(TEMPLATE / file.source)
    print(f"{service.label}\nin {folder}", flush=True)
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    command = [os.environ.get("UV", "uv"), "run", service.answers["project_slug"], "dev"]
    os.chdir(folder)
    os.execvpe(command[0], command, environment)


def files(matrix: Matrix, answers: Mapping[str, str]) -> int:
    service = matrix.render(answers)
    sources = matrix.sources(service)
    print(service.label)
    for layer, paths in groupby(sources, key=lambda path: sources[path].source.parts[:-1][:1]):
        print(f"\n{'/'.join(('template', *layer))}")
        for path in paths:
            read = set(sources[path].reads) - sources[path].path_reads
            print(f"  {path:50} {', '.join(sorted(read))}".rstrip())
    lines = sum(content.count(b"\n") for content in service.files.values())
    print(f"\n{len(sources)} files, {lines:,} lines")
    return 0


COMMANDS = {"run": run, "files": files}

if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
