"""What `doctor` finds in workflow code that is not the same in each replay.

A workflow goes on after a restart by running again from its start, with the recorded answers of its steps. Code that
reads a clock or asks the network then takes other steps than those recorded, and the workflow is stuck. Looked at are
the methods that Temporal calls and what they call in the same module, so no job that stands beside its workflow.
"""

import ast
import re
from collections.abc import Container, Iterable, Iterator, Mapping

from ..runtime.job import jobs
from .doctor import OURS, Function
from .leftovers import SOURCE, named

Names = Mapping[str, str]
Found = Iterator[tuple[ast.expr | ast.stmt, str, str]]
DEFN = "temporalio.workflow.defn"
ENTRY = re.compile(r"temporalio\.workflow\.(init|query|run|signal|update)|.+\.validator")
NO_WORKFLOW = re.compile(r"temporalio\.activity\.defn|.+\.runtime\.(job\.)?job")
CALLS = {
    "I/O": r"open|input|os\.(listdir|makedirs|mkdir|open|popen|remove|rename|scandir|stat|system|unlink|walk)"
    r"|(httpx|requests)\.(delete|get|head|options|patch|post|put|request|stream|(Async)?Client|Session)"
    r"|aiohttp\.(ClientSession|request)|urllib\.request\.\w+|asyncio\.(create_subprocess_\w+|open_connection)"
    r"|socket\.(create_connection|getaddrinfo|getfqdn|gethost\w+|socket)|subprocess\.(Popen|call|check_\w+|get\w+|run)"
    r"|shutil\.(copy\w*|move|rmtree)|pathlib\.Path\.(cwd|home)|.+\.(read|write)_(bytes|text)",
    "clock": r"time\.(monotonic|perf_counter|process_time|time)(_ns)?|datetime\.(datetime|date)\.(now|today|utcnow)",
    "chance": r"random\.(SystemRandom|[a-z]\w*)|uuid\.uuid[1467]|secrets\.(choice|rand\w+|token_\w+)|os\.urandom",
    "sleep": r"time\.sleep",
    "thread": r"asyncio\.to_thread|concurrent\.futures\.\w+Executor|multiprocessing\.(Pool|Process)"
    r"|threading\.(Thread|Timer)|.+\.run_in_executor",
    "environment": r"os\.(getenv|getpid)|[\w.]+\.settings\.settings",
    "wait": r"asyncio\.(as_completed|wait)",
}
ACTIVITY = re.compile(r"temporalio\.workflow\.(execute|start)_(local_)?activity(_class|_method)?")
TIMEOUTS = {"schedule_to_close_timeout", "start_to_close_timeout", ""}  # "": **options, which may have one
MUTABLE = re.compile(
    r"(collections\.)?(Counter|OrderedDict|defaultdict|deque|dict|list|set)\(.*\)|[\[{].*[\]}]", re.DOTALL
)
STEP = re.compile(r"\b(self\.(attempt|step)|workflow\.\w+)\(")
CHANGES = {"add", "append", "clear", "discard", "extend", "insert", "pop", "remove", "setdefault", "update"}
MENDS = {
    "I/O": ("{} is I/O in workflow code", "do it in a job, and run that by self.step(…)"),
    "clock": ("{} is another time in each replay", "workflow.now(), or workflow.time()"),
    "chance": ("{} is another value in each replay", "workflow.random(), or workflow.uuid4()"),
    "sleep": ("{} stops all workflows of its worker", "await self.pause(…), or asyncio.sleep(…)"),
    "thread": ("{} leaves the workflow's own event loop", "do it in a job, and run that by self.step(…)"),
    "environment": ("{} may differ on the worker that replays", "make it an argument, or read it in a job"),
    "set": ("the set {} has another order in each process", "sorted(…), or a list"),
    "wait": ("{} answers in no certain order", "workflow.wait(…), or workflow.as_completed(…)"),
    "shared": ("{} is shared by workflows, and as new after a restart", "keep it in self"),
    "job": ("{} runs in the workflow itself, again in each replay", "await self.step({}, …)"),
    "no timeout": ("{} has no timeout: it is refused, and the workflow is stuck", "start_to_close_timeout=…"),
    "one try": ("{} has one try, which a redeployed worker can spend", "leave maximum_attempts out, or at least 2"),
    "import": ("{} is loaded anew for each workflow", "put it under `with workflow.unsafe.imports_passed_through():`"),
}


def check(passed_through: Container[str]) -> Iterator[tuple[str, str, str]]:
    """Findings as (where, problem, mend); `passed_through`: modules that a worker loads once for all its workflows."""
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        try:
            text = path.read_text(encoding="utf-8") if parts[1] not in OURS else ""
            module = ast.parse(text)
        except (SyntaxError, ValueError, OSError):
            continue  # doctor.py tells of it
        imported = dict(_imports(ast.walk(module), parts[:-1]))
        names = {name: name for name in ("input", "open", *(name.partition(".")[0] for name in imported))} | imported
        names |= {node.name: ".".join([*parts, node.name]) for node in module.body if isinstance(node, Function)}
        classes = [node for node in module.body if isinstance(node, ast.ClassDef) and DEFN in _decorators(node, names)]
        found = [*_outside(module, parts[:-1], passed_through), *_inside(module, classes, names)] if classes else []
        for node, rule, name in sorted(found, key=lambda one: one[0].lineno):
            if "# doctor: ok" not in text.splitlines()[node.lineno - 1]:
                problem, mend = (words.format(name) for words in MENDS[rule])
                yield f"{named(path)}:{node.lineno}", problem, mend


def _outside(module: ast.Module, package: tuple[str, ...], passed_through: Container[str]) -> Found:
    for node in module.body:
        for name, origin in _imports([node], package):
            parts = origin.split(".")
            if not any(".".join(parts[: n + 1]) in passed_through for n in range(len(parts))):
                yield node, "import", name


def _inside(module: ast.Module, classes: list[ast.ClassDef], names: Names) -> Found:
    constants = dict(_assigned(module.body))
    functions = {f"{job.function.__module__}.{job.name}" for job in jobs().values() if not job.workflow}
    for function in _reached(module, classes, names):
        nodes = [*_walk(function)]
        stored = [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
        local = {*stored, *(node.arg for node in nodes if isinstance(node, ast.arg))}
        known = {name: origin for name, origin in names.items() if name not in local}
        sets = [name for name, value in _assigned(nodes) if _is_set(value, set())]
        sure = {name for name in sets if sets.count(name) == stored.count(name)}
        for node in nodes:
            if isinstance(node, ast.Call):
                yield from _call(node, known, constants, functions)
                if isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES:
                    yield from _shared(node, node.func.value, local, constants)
            elif isinstance(node, ast.Attribute) and _origin(node, known) == "os.environ":
                yield node, "environment", "os.environ"
            elif isinstance(node, ast.Global):
                yield node, "shared", node.names[0]
            elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
                yield from _shared(node, node.value, local, constants)
            yield from ((of, "set", _text(of)) for of in _iterated(node) if _is_set(of, sure))


def _call(node: ast.Call, names: Names, constants: Mapping[str, ast.expr], functions: Container[str]) -> Found:
    name, origin = _text(node.func), _origin(node, names)
    rule = next((one for one, pattern in CALLS.items() if re.fullmatch(pattern, origin)), None)
    if origin == "random.Random" and not node.args:
        rule = "chance"
    if rule or origin in functions:
        yield node, rule or "job", name
    if ACTIVITY.fullmatch(origin):
        given = {one.arg or "": one.value for one in node.keywords}
        if not given.keys() & TIMEOUTS:
            yield node, "no timeout", name
        policy = given.get("retry_policy")
        if re.search(r"\bmaximum_attempts=1\b", _text(constants.get(_text(policy), policy))):
            yield node, "one try", name


def _shared(node: ast.expr, changed: ast.expr, local: Container[str], constants: Mapping[str, ast.expr]) -> Found:
    name = _text(changed)
    if name not in local and MUTABLE.fullmatch(_text(constants.get(name))):
        yield node, "shared", name


def _reached(module: ast.Module, classes: list[ast.ClassDef], names: Names) -> list[Function]:
    """Methods that Temporal calls, and what these name of their class and of the module."""
    functions = [one for one in module.body if isinstance(one, Function)]
    ours = [(one.name, one) for one in functions if not any(map(NO_WORKFLOW.fullmatch, _decorators(one, names)))]
    todo: list[Function] = []
    for one in (one for one in module.body if isinstance(one, ast.ClassDef)):
        for method in (each for each in one.body if isinstance(each, Function)):
            ours.append((f"self.{method.name}", method))
            if any(map(ENTRY.fullmatch, _decorators(method, names))) or (one in classes and method.name == "__init__"):
                todo.append(method)
    for function in todo:
        named = {_text(node) for node in _walk(function) if isinstance(node, ast.Attribute | ast.Name)}
        todo += [one for name, one in ours if name in named and one not in todo]
    return todo


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those for which somebody has taken the sandbox away."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.With) and "sandbox_unrestricted" in _text(child.items[0])):
            yield from _walk(child)


def _imports(nodes: Iterable[ast.AST], package: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Each name that is imported, and what it stands for."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((one.asname or one.name, one.name) for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) + 1 - node.level]] if node.level else []
            base += [node.module] if node.module else []
            yield from ((one.asname or one.name, ".".join([*base, one.name])) for one in node.names)


def _origin(node: ast.expr, names: Names) -> str:
    """What is called or named, as its own module calls it; `?` for what is not imported."""
    if isinstance(node, ast.Call):
        return _origin(node.func, names)
    if isinstance(node, ast.Attribute):
        return f"{_origin(node.value, names)}.{node.attr}"
    return names.get(node.id, "?") if isinstance(node, ast.Name) else "?"


def _decorators(node: Function | ast.ClassDef, names: Names) -> list[str]:
    return [_origin(one, names) for one in node.decorator_list]


def _assigned(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, ast.expr]]:
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((target.id, node.value) for target in targets if isinstance(target, ast.Name))


def _iterated(node: ast.AST) -> list[ast.expr]:
    """Where an order decides on the order of steps."""
    if isinstance(node, ast.ListComp | ast.GeneratorExp) and STEP.search(_text(node.elt)):
        return [each.iter for each in node.generators]
    return [node.iter] if isinstance(node, ast.For) else []


def _is_set(node: ast.expr, sets: set[str]) -> bool:
    if isinstance(node, ast.Set):
        return not all(isinstance(getattr(one, "value", None), int) for one in node.elts)  # numbers keep their order
    called = isinstance(node, ast.Call) and _text(node.func) in ("frozenset", "set")
    return called or isinstance(node, ast.SetComp) or _text(node) in sets


def _text(node: ast.AST | None) -> str:
    return ast.unparse(node) if node else ""
