"""`doctor`: find in settings, configuration and your code what works today and loses or doubles a job some day.

Each finding says how to mend it. A line of code that is right nevertheless may say so: `# doctor: ok`.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from ..queues import QUEUES
from ..settings import is_loopback, settings
from .broker import check as check_broker
from .leftovers import SOURCE, Finding, leftovers, named

Function = ast.FunctionDef | ast.AsyncFunctionDef
Found = Iterator[tuple[ast.expr | ast.stmt, str, str]]

OURS = {"cli", "dev", "ops", "runtime"}  # folders of the package that hold no code of yours
JOB, HANDLER = {"job", "shared_task", "task"}, {"delete", "get", "patch", "post", "put"}  # decorators
BLOCKING = re.compile(r"httpx\.[a-z]+|requests\.\w+|subprocess\.(call|check_\w+|run)|time\.sleep|urllib\.request\.\w+")
SUBMITTING = {"AsyncResult", "GroupResult", "Job", "apply_async", "delay", "enqueue_job"}
WAITING = {"get", "join", "result", "wait"}
QUEUE_NAMES = [queue.name for queue in QUEUES]

FORBIDDEN = {
    "pickle": ("{} runs code from its input", "pass JSON: pydantic models; keep files in a store and pass their names"),
    "background": ("{} is lost when the web process restarts", "make it a job and submit it"),
    "early ack": ("acks_late=False loses the job when its worker dies", "leave it out"),
    "queue": ("no worker reads the queue {}", f"use {', '.join(QUEUE_NAMES)}, or add it to queues.py"),
    "bytes": ("job {} returns bytes, which are not JSON", "return a model; put files into a store, return their names"),
    "no key": ("job {} retries without an idempotency key", "declare it with @job(retry=…, idempotency_key=…)"),
    "job waits": ("job {} waits for another, which can block all workers", "let the next step carry on (chain, group)"),
    "blocks": ("{} blocks the event loop, and all jobs on it", "await something async, or asyncio.to_thread(…)"),
    "handler waits": ("request handler {} waits for a job", "answer 202 with the job's id, as the API does"),
    "handler works": ("a request handler runs the job {} itself", "submit it"),
}


def diagnose() -> list[Finding]:
    """All findings: settings first, then the broker, the stack's configuration, code, and leftovers of an update."""
    try:
        found = [*_settings(), *(Finding(*one) for one in check_broker()), *_stack()]
    except ValidationError as error:
        mend = "correct it in the environment or in .env"
        found = [Finding(str(*it["loc"][:1]).upper() or "settings", it["msg"], mend) for it in error.errors()]
    return [*found, *_code(), *leftovers()]


def _settings() -> Iterator[Finding]:
    config = settings()
    host = getattr(config, "api_host", "127.0.0.1")
    if not is_loopback(host) and not getattr(config, "api_tokens", ()):
        yield Finding("API_HOST", f"{host} would be open to everybody", "set API_TOKENS, or API_HOST=127.0.0.1")


def _stack() -> Iterator[Finding]:
    try:
        from ..runtime.routing import declared
        from .worker import check

        declared("SCHEDULES")  # imports all of jobs/
    except Exception as error:
        mend = "correct it: no worker starts like this. After a change of stack it is in the old one's words: rewrite"
        yield Finding("jobs/", f"cannot be imported: {error}", mend)
        return
    yield from (Finding(*one) for one in check())


def _code() -> Iterator[Finding]:
    modules: dict[Path, tuple[str, ast.Module]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        if path.relative_to(SOURCE).parts[0] not in OURS:
            try:
                text = path.read_text(encoding="utf-8")
                modules[path] = text, ast.parse(text)
            except (SyntaxError, ValueError, OSError) as error:
                yield Finding(named(path), f"cannot be read: {error}", "make it a valid Python file in UTF-8")
    functions = (node for _, module in modules.values() for node in ast.walk(module))
    jobs = {node.name for node in functions if isinstance(node, Function) and _decorated(node, JOB)}
    for path, (text, module) in modules.items():
        for node, rule, name in _forbidden(module, jobs):
            if "# doctor: ok" not in text.splitlines()[node.lineno - 1]:
                problem, mend = FORBIDDEN[rule]
                yield Finding(f"{named(path)}:{node.lineno}", problem.format(name), mend)


def _forbidden(module: ast.Module, jobs: set[str]) -> Found:
    """Where, which of FORBIDDEN, and the name to put in."""
    imported: dict[str, str] = {}
    for node in ast.walk(module):
        if isinstance(node, ast.Import | ast.ImportFrom):
            origin = f"{'.' * node.level}{node.module or ''}." if isinstance(node, ast.ImportFrom) else ""
            imported |= {alias.asname or alias.name: origin + alias.name for alias in node.names}
            names = {alias.name for alias in node.names} | {origin[:-1]}
            for name in names & {"cloudpickle", "dill", "pickle"}:
                yield node, "pickle", name
            for name in names & {"BackgroundTask", "BackgroundTasks"}:
                yield node, "background", name
        elif isinstance(node, ast.Call):
            yield from _call(node)
        elif isinstance(node, Function) and _decorated(node, JOB):
            yield from _job(node)
            yield from _blocking(node, imported) if isinstance(node, ast.AsyncFunctionDef) else ()
        elif isinstance(node, Function) and _decorated(node, HANDLER):
            yield from ((call, "handler waits", node.name) for call in _waits(node))
            for call in ast.walk(node):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in jobs:
                    yield call, "handler works", call.func.id


def _call(node: ast.Call) -> Found:
    takes_queue = {"Rule", "apply_async", "job", "send_task", "set", "shared_task", "signature", "submit", "task"}
    for name, value in _options(node).items():
        if name == "acks_late" and value is False:
            yield node, "early ack", ""
        if name.endswith("serializer") and value == "pickle":
            yield node, "pickle", "pickle"
        if name == "queue" and _called(node) in takes_queue and isinstance(value, str) and value not in QUEUE_NAMES:
            yield node, "queue", value


def _job(node: Function) -> Found:
    if isinstance(node.returns, ast.Name) and node.returns.id in {"bytes", "bytearray"}:
        yield node, "bytes", node.name
    options = {name: value for one in node.decorator_list for name, value in _options(one).items()}
    retries = "autoretry_for" in options or options.get("max_retries", 0) != 0
    if retries and not {"idempotency_key", "no_key_because"} & options.keys():
        yield node, "no key", node.name
    yield from ((call, "job waits", node.name) for call in _waits(node))


def _blocking(node: ast.AST, imported: dict[str, str]) -> Found:
    """Calls that the coroutine makes itself; a function defined in it may run in a thread."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            first, dot, rest = ast.unparse(child.func).partition(".")
            if BLOCKING.fullmatch(name := imported.get(first, first) + dot + rest):
                yield child, "blocks", name
        if not isinstance(child, ast.FunctionDef | ast.Lambda):
            yield from _blocking(child, imported)


def _waits(function: ast.AST) -> Iterator[ast.Call]:
    """Calls of get, join, result or wait on what this function submitted."""
    nodes = list(ast.walk(function))
    assigned = [node for node in nodes if isinstance(node, ast.Assign | ast.AnnAssign) and _submits(node.value)]
    names = [name for node in assigned for name in ast.walk(node) if isinstance(name, ast.Name)]
    results = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WAITING:
            of = node.func.value
            if _submits(of) or (isinstance(of, ast.Name) and of.id in results):
                yield node


def _submits(node: ast.expr | None) -> bool:
    call = node.value if isinstance(node, ast.Await) else node
    if not isinstance(call, ast.Call):
        return False
    canvas = isinstance(call.func, ast.Call) and _called(call.func) in {"chain", "chord", "group"}
    return canvas or _called(call) in SUBMITTING


def _decorated(function: Function, names: set[str]) -> bool:
    return any(_called(one) in names for one in function.decorator_list)


def _called(node: ast.expr) -> str:
    """The last part of the name that is called or used."""
    function = node.func if isinstance(node, ast.Call) else node
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _options(node: ast.expr) -> dict[str, object]:
    """The keyword arguments; those that are no constants as syntax."""
    given = node.keywords if isinstance(node, ast.Call) else []
    return {one.arg or "": getattr(one.value, "value", one.value) for one in given}
