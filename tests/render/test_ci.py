"""The rendered CI: what actionlint, zizmor and the schemas say of it, and what its scripts do when they are run."""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from .checks import complaints
from .matrix import Matrix
from .rendering import ROOT, Service
from .test_copier import commit, git

WORKFLOWS = [".github/workflows/ci.yml", ".github/workflows/update.yml"]
PIPELINE = ".gitlab-ci.yml"
FILES = {"github": set(WORKFLOWS), "gitlab": {PIPELINE}, "none": set()}
CONFLICT = "<<<<<<< before updating\nours\n=======\ntheirs\n>>>>>>> after updating\n"
STUBS = {  # beside git, what the scripts call; each notes how it was called
    "uv": "",
    "uvx": 'test ! -e "$NEWS" || cp -r "$NEWS"/. .',
    "gh": 'case "$*" in "pr view"*) cat "$PULL_REQUEST" ;; esac',
}


@pytest.fixture(scope="session")
def rendered(matrix: Matrix) -> Mapping[str, Service]:
    return {ci: matrix.render({"ci": ci}) for ci in FILES}


@pytest.fixture(scope="session")
def actionlint() -> str:
    """Its path; where it cannot be had that is a failure, not a skip."""
    done = subprocess.run(["sh", str(ROOT / "scripts/actionlint.sh")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_files_come_with_the_choice(matrix: Matrix) -> None:
    for service in matrix.each("*.yml"):
        found = {path for path in service.files if path.startswith((".github/", ".gitlab"))}
        assert found == FILES[service.answers["ci"]], service.label


def test_a_service_that_starts_rabbitmq_has_it_installed(matrix: Matrix) -> None:
    for service in matrix.each("*.yml"):
        starts = any(re.fullmatch(r"src/\w+/dev/node\.py", path) for path in service.files)
        assert starts == (service.answers.get("broker") == "rabbitmq"), service.label
        for path in FILES[service.answers["ci"]] - {WORKFLOWS[1]}:
            assert "src/*/dev/node.py" in service.text(path)
            assert "rabbitmq-server" in service.text(path)


def test_linters_and_schemas_find_nothing(rendered: Mapping[str, Service], actionlint: str, tmp_path: Path) -> None:
    github, gitlab = (rendered[ci].write(tmp_path / ci) for ci in ("github", "gitlab"))
    assert not complaints([actionlint, *WORKFLOWS], github)
    assert not complaints(["zizmor", "--offline", "--quiet", "--no-progress", ".github"], github)
    assert not complaints(["check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS], github)
    assert not complaints(["check-jsonschema", "--builtin-schema", "vendor.gitlab-ci", PIPELINE], gitlab)


def test_a_mistake_in_a_workflow_is_found(rendered: Mapping[str, Service], actionlint: str, tmp_path: Path) -> None:
    folder = rendered["github"].write(tmp_path / "service")
    workflow = folder / WORKFLOWS[0]
    text = workflow.read_text()
    workflow.write_text(text.replace("github.ref", "github.reff"))
    assert 'property "reff" is not defined' in "".join(complaints([actionlint, *WORKFLOWS], folder))
    workflow.write_text(re.sub(r"checkout@\w+", "checkout@v7", text))
    assert "unpinned-uses" in "".join(complaints(["zizmor", "--offline", "--no-progress", ".github"], folder))


def test_rights_are_given_one_by_one_and_actions_are_pinned_by_commit(rendered: Mapping[str, Service]) -> None:
    granted: dict[str, dict[str, str]] = {}
    for path in WORKFLOWS:
        text = rendered["github"].files[path].decode()
        workflow = yaml.safe_load(text)
        assert workflow["permissions"] == {}
        granted |= {name: job["permissions"] for name, job in workflow["jobs"].items()}
        for line in re.findall(r"uses: .*", text):
            assert re.fullmatch(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", line)
        assert text.count("persist-credentials: false") == text.count("uses: actions/checkout@")
    assert granted == {
        "conflicts": {"contents": "read"},
        "tests": {"contents": "read"},
        "update": {"actions": "write", "contents": "write", "pull-requests": "write"},
    }


def test_the_alerts_are_tested_by_the_prometheus_that_runs_them(matrix: Matrix, tmp_path: Path) -> None:
    service = matrix.render({"ci": "gitlab"})
    image = yaml.safe_load(service.files[PIPELINE])["alerts"]["image"]["name"]
    compose = service.files["deploy/monitoring/compose.yaml"]
    assert image == yaml.safe_load(compose)["services"]["prometheus"]["image"]
    step = yaml.safe_load(matrix.render({}).files[WORKFLOWS[0]])["jobs"]["tests"]["steps"][-1]
    folder = service.write(tmp_path)
    said = step["run"].partition("\n")[0] + '\nprintf %s "$image"'
    assert subprocess.check_output(["bash", "-ec", said], cwd=folder, text=True) == image


def scripts(rendered: Mapping[str, Service], ci: str, job: str) -> str:
    """What a job runs, as one script."""
    if ci == "gitlab":
        return "\n".join(yaml.safe_load(rendered[ci].files[PIPELINE])[job]["script"])
    found = [yaml.safe_load(rendered[ci].files[path])["jobs"] for path in WORKFLOWS]
    [steps] = [jobs[job]["steps"] for jobs in found if job in jobs]
    return "\n".join(step["run"] for step in steps if "run" in step)


@pytest.mark.parametrize("ci", ["github", "gitlab"])
def test_the_job_for_conflicts_fails_on_one_and_on_nothing_else(
    rendered: Mapping[str, Service], tmp_path: Path, ci: str
) -> None:
    folder = rendered[ci].write(tmp_path / "service")
    git(folder, "init", "--quiet")
    commit(folder, "Start")
    script = ["bash", "-e", "-o", "pipefail", "-c", scripts(rendered, ci, "conflicts") + "\nexit 0"]
    assert subprocess.run(script, cwd=folder, check=False).returncode == 0
    (folder / "README.md").write_text(CONFLICT)
    assert subprocess.run(script, cwd=folder, capture_output=True, check=False).returncode == 1


class Forge:
    """A service's repository on a forge that knows no more than git does, and a runner with its checkout."""

    def __init__(self, folder: Path, service: Service, script: str) -> None:
        self.folder, self.script = folder, script
        self.remote, self.calls, self.news = folder / "remote.git", folder / "calls", folder / "news"
        self.pull_request = folder / "pull_request"
        self.pull_request.touch()
        git(folder, "init", "--quiet", "--bare", "--initial-branch=main", str(self.remote))
        start = service.write(folder / "start")
        git(start, "init", "--quiet", "--initial-branch=main")
        commit(start, "Start")
        git(start, "push", "--quiet", str(self.remote), "main")
        programs = folder / "programs"
        programs.mkdir()
        for name, does in STUBS.items():
            (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >>"$CALLS"\n{does}\n')
            (programs / name).chmod(0o755)

    def release(self, version: str, **files: str) -> None:
        """What `copier update` will write."""
        for name, content in {".copier-answers.yml": f"_commit: {version}\n", **files}.items():
            self.news.mkdir(exist_ok=True)
            (self.news / name).write_text(content)

    def run(self) -> list[str]:
        """One weekly run; the calls that it made of the stubs."""
        self.calls.write_text("")
        checkout = self.folder / f"checkout{len(list(self.folder.iterdir()))}"
        git(self.folder, "clone", "--quiet", str(self.remote), str(checkout))
        environment = {
            "PATH": f"{self.folder / 'programs'}:{os.environ['PATH']}",
            "CALLS": str(self.calls),
            "NEWS": str(self.news),
            "PULL_REQUEST": str(self.pull_request),
            "GH_TOKEN": "secret",
            "GITHUB_SERVER_URL": "https://github.example",
            "GITHUB_REPOSITORY": "us/service",
            "UPDATE_TOKEN": "secret",
            "CI_REPOSITORY_URL": "https://job:token@github.example/us/service",
            "GITLAB_USER_EMAIL": "us@example.org",
            "GIT_CONFIG_COUNT": "2",
            "GIT_CONFIG_KEY_0": f"url.{self.remote}.insteadOf",
            "GIT_CONFIG_VALUE_0": "https://x-access-token:secret@github.example/us/service",
            "GIT_CONFIG_KEY_1": f"url.{self.remote}.insteadOf",
            "GIT_CONFIG_VALUE_1": "https://update:secret@github.example/us/service",
        }
        git(self.remote, "config", "receive.advertisePushOptions", "true")
        bash = ["bash", "-e", "-o", "pipefail", "-c", self.script]
        done = subprocess.run(bash, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return self.calls.read_text().splitlines()

    def branch(self) -> str:
        """What the update's branch holds beyond main, with its last message."""
        return git(self.remote, "log", "--stat", "--format=%s", "main..template-update")

    def branches(self) -> list[str]:
        return git(self.remote, "branch", "--format=%(refname:short)").split()


@pytest.fixture(params=["github", "gitlab"])
def forge(rendered: Mapping[str, Service], tmp_path: Path, request: pytest.FixtureRequest) -> Forge:
    return Forge(tmp_path, rendered[request.param], scripts(rendered, request.param, "update"))


def test_an_update_comes_as_one_branch_and_one_pull_request(forge: Forge) -> None:
    calls = forge.run()
    assert forge.branches() == ["main"], "without news nothing is pushed"
    assert calls == ["uvx --from copier==9.19.* copier update --defaults", "uv lock"]

    forge.release("v1.1.0", **{"README.md": CONFLICT, "new.txt": "new\n"})
    calls = forge.run()
    assert "Update from the template to v1.1.0" in forge.branch()
    assert "new.txt" in forge.branch()
    if "gh workflow run" in forge.script:
        assert [call for call in calls if call.startswith("gh pr create --head template-update --title Update")]
        assert calls[-1] == "gh workflow run ci.yml --ref template-update"
    else:
        assert "-o merge_request.create" in forge.script

    forge.pull_request.write_text("OPEN\n")
    at = git(forge.remote, "rev-parse", "template-update")
    assert not [call for call in forge.run() if call.startswith("gh pr create")]
    assert git(forge.remote, "rev-parse", "template-update") == at, "people's commits on the branch stay"

    forge.release("v1.2.0")
    calls = forge.run()
    assert "Update from the template to v1.2.0" in forge.branch()
    assert not [call for call in calls if call.startswith("gh pr create")], "the open one shows it"
