"""Another answer on the same version, `copier update --vcs-ref=:current:`: as rendered afresh, and jobs/ as it was."""

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from jinja2.nativetypes import NativeEnvironment

from ..render.rendering import RECORDED, choices
from .conftest import Start
from .leftovers import findings
from .updating import NEXT, is_owned_by_the_team, recorded, template_owned

STACKS = ("celery", "arq", "temporal")


def _default(question: Mapping[str, Any]) -> Any:
    """Of a service with the HTTP API."""
    value = question["default"]
    return NativeEnvironment().from_string(value).render(api=True) if "{{" in str(value) else value


def _changes() -> list[dict[str, Any]]:
    """Every choice but those of the default service and the stack, in as few services as have room for them."""
    others: dict[str, list[Any]] = {}
    for name, question in RECORDED.items():
        if name == "stack" or not choices(question):
            continue
        chosen = _default(question)
        if question.get("multiselect"):
            kept = [choice for choice in chosen if choice == "default"]
            others[name] = [[*kept, choice] for choice in choices(question) if choice not in chosen]
        else:
            others[name] = [choice for choice in choices(question) if choice != chosen]
    rounds = max(map(len, others.values()))
    return [{name: found[number] for name, found in others.items() if number < len(found)} for number in range(rounds)]


@pytest.mark.parametrize(("old", "new"), [*itertools.permutations(STACKS, 2)])
def test_a_change_of_stack_renders_what_a_copy_renders_and_keeps_what_is_yours(
    start: Start, old: str, new: str
) -> None:
    service = start(NEXT, stack=old)
    job = service.package / "runtime/job.py"  # a path that every stack has
    job.write_text(f"{job.read_text()}\n# our note at the end\n")
    service.commit()
    before, name = service.files(), job.relative_to(service.folder).as_posix()
    service.switch(stack=new)
    after = service.files()
    theirs = [{path: it for path, it in files.items() if is_owned_by_the_team(path)} for files in (before, after)]
    assert theirs[0] == theirs[1]
    assert template_owned(after, [name]) == template_owned(start(NEXT, stack=new).files(), [name])
    assert b"# our note at the end" in after[name]


@pytest.mark.parametrize("change", _changes(), ids=str)
def test_a_changed_answer_renders_what_a_copy_renders(start: Start, change: dict[str, Any]) -> None:
    service = start(NEXT)
    service.switch(**change)
    assert template_owned(service.files()) == template_owned(start(NEXT, **recorded(service)).files())
    assert findings(service) == []


def test_stack_and_version_change_in_one_update(start: Start) -> None:
    service = start("v0.1.0")
    service.update(stack="arq")
    assert template_owned(service.files()) == template_owned(start(NEXT, **recorded(service)).files())
