"""What Redis may answer, and the commands by which a job goes from its submission to its end, on each stack."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..contract.installed import Installed
from .resp_proxy import Answer

CLOSED, SILENCE = Answer("close"), Answer("silence")
ANSWERS: dict[str, Answer] = {
    **{
        text.partition(" ")[0]: Answer("error", text)
        for text in (
            "OOM command not allowed when used memory > 'maxmemory'.",
            "READONLY You can't write against a read only replica.",
            "NOREPLICAS Not enough good replicas to write.",
            "MISCONF Valkey is configured to save RDB snapshots, but it's currently unable to persist to disk.",
            "LOADING Valkey is loading the dataset in memory",
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "BUSY Valkey is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
            "NOAUTH Authentication required.",
            "NOPERM User default has no permissions to run the 'evalsha' command",
        )
    },
    "closed": CLOSED,
    "closed after": CLOSED.after(),
    "silence": SILENCE,
    "silence after": SILENCE.after(),
    "delay": Answer("delay", seconds=1.0),
    "truncated": Answer("truncate"),
}
# The beginning of a script that has no file of its own, or a part of it: what it does.
SCRIPTS = {
    "redis.call('LPUSH', KEYS[1], ARGV[1])": "publish",
    "redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])": "park",
    "local ours = redis.call('PEXPIRE'": "renew",
    "redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(entry))": "enlist",
    "local due = redis.call('ZRANGE', KEYS[1]": "due",
}


def step_of(installed: Installed) -> Callable[[str, Sequence[bytes]], str]:
    """Names a script by what this service does with it."""
    files = {path.stem: path.read_text() for path in (installed.folder / "src").rglob("*.lua")}
    steps = re.findall(r"^function steps\.(\w+)\(\)$(.*?)^end$", files["record"], re.MULTILINE | re.DOTALL)

    def named(script: str, arguments: Sequence[bytes]) -> str:
        if "function steps." in script:  # one script for all; its first argument says which
            return arguments[0].decode()
        known = (
            [(body, name) for name, body in steps] + [*SCRIPTS.items()] + [(text, name) for name, text in files.items()]
        )
        return next((name for text, name in known if text in script), "")

    return named


@dataclass(frozen=True)
class Step:
    """One thing that is asked of Redis for a job."""

    asker: str
    """api, worker or scheduler."""
    on: str
    """The command, or the name of its script, or several (`HSET|enlist`); `*` is any that names the job."""
    job: str = "effect"
    """Which job shows it."""
    of_the_job: bool = True
    """Whether the command names the job; else the next one of its kind is meant."""
    having: str = ""
    """Then what stands in it."""


CELERY = {
    "reserve": Step("api", "reserve"),
    "publish": Step("api", "publish"),
    "confirm": Step("api", "confirm"),
    "take": Step("worker", "transport", of_the_job=False),
    "start": Step("worker", "start"),
    "progress": Step("worker", "HEXISTS", "steps"),
    "renewal": Step("worker", "PEXPIRE|renew", "long"),
    "heartbeat": Step("worker", "HSET|enlist", of_the_job=False, having="workers"),
    "finish": Step("worker", "finish"),
    "acknowledge": Step("worker", "EXEC", of_the_job=False),
    "status": Step("api", "*", "look"),
    "result": Step("api", "*", "look"),
    "cancel": Step("api", "cancel", "later"),
    "snooze": Step("worker", "finish", "snoozing"),
    "send after a snooze": Step("worker", "publish", "snoozing"),
    "retry": Step("worker", "finish", "flaky"),
    "send after an error": Step("worker", "publish", "flaky"),
    "fire": Step("scheduler", "reserve", "", of_the_job=False),
    "note a firing": Step("scheduler", "HSET", "", of_the_job=False, having="schedules"),
}
STEPS: dict[str, dict[str, Step]] = {
    "celery": CELERY,
    "rabbitmq": {
        **{name: step for name, step in CELERY.items() if name not in ("publish", "take", "acknowledge")},
        "send after a snooze": Step("worker", "park", "snoozing"),
        "send after an error": Step("worker", "park", "flaky"),
        "take what is due": Step("worker", "due", "flaky", of_the_job=False),
    },
    "arq": {
        "submit": Step("api", "submit"),
        "take": Step("worker", "take", of_the_job=False),
        "progress": Step("worker", "update", "steps"),
        "renewal": Step("worker", "renew", "long"),
        "finish": Step("worker", "finish"),
        "status": Step("api", "*", "look"),
        "result": Step("api", "*", "look"),
        "cancel": Step("api", "cancel", "later"),
        "snooze": Step("worker", "finish", "snoozing"),
        "retry": Step("worker", "finish", "flaky"),
        "fire": Step("scheduler", "submit", "", of_the_job=False),
        "note a firing": Step("scheduler", "EVAL", "", of_the_job=False, having="schedules"),
    },
}
