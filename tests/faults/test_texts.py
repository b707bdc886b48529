"""Any text and any number, at every place where one enters or leaves: an answer is JSON, an error is in words."""

import json
import math
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ..contract.processes import until
from ..contract.service import FINAL, Service

NASTY = [
    "\x00", "\ud83d", "half \udc00 pair", "\x1b]0;title\x07", "\x1b[31mred", "\x9b31m", "a\r\nb", "\u202egnp", "\ufeff",
    "queues", "x:lease", "../x", "..%2fx", "%00", "%", "a|b", "key:a:b", "job:x", "lock:x", '{"$ref": "x", "bytes": 1}',
    "NaN", "Infinity", "nan", "-0", "1e999", "null", "", " ", "'", '"', "\\", "\\ud800", "<script>alert(1)</script>",
    "[red]markup[/red]", "%s %d", "{0} {x}", "{{7*7}}", "$(id)", "é", "😀", "x" * 300, "long " * 2_000,
]  # fmt: skip
TEXTS = st.one_of(
    st.sampled_from(NASTY), st.text(st.characters(), max_size=40), st.text("\x00\ud800|:/.%{}\x1b", max_size=8)
)
NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([10**400, -(10**4299), 2**53 + 1, 2**63, 2**64, 1e308, -1e308, 5e-324, -0.0, math.inf, math.nan]),
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
REFERENCES = st.fixed_dictionaries({"$ref": TEXTS | NUMBERS, "bytes": st.integers(0, 9)})
ENCODED = st.fixed_dictionaries(
    {"__type__": st.sampled_from(["uuid", "bytes", "decimal", "other"]) | VALUES, "__value__": VALUES}
)
HOWS = ("result", "model", "progress", "error", "log")


def examples(few: int, many: int) -> Any:
    """CI's number, and that of `--all`."""

    def choose(test: Any) -> Any:
        return pytest.mark.parametrize(
            "count", [pytest.param(few, id="few"), pytest.param(many, id="many", marks=pytest.mark.thorough)]
        )(test)

    return choose


def run(count: int, strategy: dict[str, st.SearchStrategy[Any]], check: Any) -> None:
    given(**strategy)(
        settings(
            max_examples=count,
            deadline=None,
            database=None,
            derandomize=count < 1_000,  # the same on each machine of CI
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )(check)
    )()


def strict(document: bytes) -> Any:
    """The value of a document that every reader of JSON accepts."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    def finite(digits: str) -> float:
        assert math.isfinite(float(digits)), f"{digits} is beyond a float"
        return float(digits)

    value = json.loads(document.decode(), parse_constant=refuse, parse_float=finite)
    json.dumps(value, ensure_ascii=False).encode()  # no half of a surrogate pair
    return value


def checked(answer: httpx.Response) -> Any:
    """The value of an answer that is no failure of the service."""
    assert answer.status_code < 500, f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}"
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if answer.status_code >= 400:
        assert kind in ("application/problem+json", "text/html", "text/plain"), kind
    return strict(answer.content) if kind.endswith("json") and answer.content else None


def is_json(value: object) -> bool:
    """Whether JSON can hold it: neither what is no number, nor half of a surrogate pair."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        return False
    return True


@examples(150, 4_000)
def test_any_body_is_accepted_whole_or_refused_in_words(service: Service, count: int) -> None:
    documents = st.one_of(
        st.binary(max_size=60),
        st.builds(json.dumps, VALUES, ensure_ascii=st.just(True)).map(str.encode),
        st.builds(
            lambda value, how: json.dumps({"document": json.dumps(value), "how": how, "extra": value}).encode(),
            VALUES,
            TEXTS,
        ),
        st.builds(lambda value: json.dumps({"label": value}).encode(), VALUES),
        st.builds(lambda value: json.dumps([value], ensure_ascii=False).encode("utf-8", "surrogatepass"), VALUES),
        st.sampled_from([
            b"\xef\xbb\xbf{}", b"[" * 10_000, b"[" * 10_000 + b"]" * 10_000, b'{"label":' * 190 + b"1" + b"}" * 190,
            b'{"label":"a","label":"b"}', b'{"label":' + b"9" * 5_000 + b"}", b'{"label":1e400}', b'{"label":"\xff"}',
            b'{"label":"\\ud800"}', b"NaN", b"nul", b"1e-999", b'"' + b"x" * 2_000_000 + b'"', b'{"seconds":-1e400}',
        ]),
    )  # fmt: skip

    def check(body: bytes, name: str, kind: str) -> None:
        headers = {"content-type": kind}
        answer = service.http.post(f"/api/v1/jobs/{name}", content=body, headers=headers)
        document = checked(answer)
        if answer.status_code == 202:
            service.status(document["id"])
        else:
            assert answer.status_code in (400, 404, 413, 415, 422), answer.text
            assert document["detail"]

    kinds = st.sampled_from(
        ["application/json", "text/plain", "application/x-www-form-urlencoded", "", "x/y; charset=utf-16"]
    )
    run(count, {"body": documents, "name": st.sampled_from(["mark", "noop", "takes"]), "kind": kinds}, check)


@pytest.mark.parametrize("text", ["x" * 990, "x" * 1_100, "long " * 2_000, "😀" * 300])
def test_an_id_of_any_length_is_answered(service: Service, text: str) -> None:
    for path in ("/api/v1/jobs/{}", "/api/v1/jobs/{}/result", "/api/v1/dead-letters/{}", "/console/jobs/{}"):
        assert service.http.get(path.format(quote(text))).status_code == 404
    for method, path in (("DELETE", "/api/v1/jobs/{}"), ("POST", "/api/v1/dead-letters/{}/replay")):
        assert service.http.request(method, path.format(quote(text))).status_code == 404


@examples(150, 4_000)
def test_any_path_query_and_key_is_answered(service: Service, count: int) -> None:
    paths = st.sampled_from([
        ("GET", "/api/v1/jobs/{}"), ("GET", "/api/v1/jobs/{}/result"), ("GET", "/api/v1/jobs/{}/events"),
        ("DELETE", "/api/v1/jobs/{}"), ("POST", "/api/v1/jobs/{}"), ("POST", "/api/v1/jobs/noop"),
        ("GET", "/api/v1/dead-letters/{}"), ("DELETE", "/api/v1/dead-letters/{}"), ("GET", "/api/v1/dead-letters"),
        ("POST", "/api/v1/dead-letters/{}/replay"), ("POST", "/api/v1/schedules/{}/pause"), ("POST", "/api/v1/{}"),
        ("GET", "/console/jobs/{}"), ("GET", "/console/dead-letters/{}"), ("GET", "/console/submit"),
    ])  # fmt: skip
    given_by_query = st.dictionaries(
        st.sampled_from(["delay", "priority", "queue", "limit", "job", "reason", "id"]),
        TEXTS | NUMBERS.map(str),
        max_size=3,
    )
    keys = st.none() | st.binary(max_size=300).filter(lambda key: not set(key) & set(b"\r\n\x00")) | st.just(b"")
    job = service.submit("noop")
    service.wait(job)

    def check(path: tuple[str, str], text: str, query: dict[str, str], key: bytes | None) -> None:
        method, place = path
        if len(text) < 300:
            text = text.replace("x", job, 1)  # the id of a job that there is, in what looks like a key
        url = place.format(quote(text.encode("utf-8", "surrogatepass"), safe=""))
        pairs = {name: value.encode("utf-8", "surrogatepass") for name, value in query.items()}
        asked = "&".join(f"{name}={quote(value)}" for name, value in pairs.items())
        headers = {} if key is None else {"Idempotency-Key": key.strip()}
        with suppress(httpx.LocalProtocolError):  # the client refuses the header
            checked(service.http.request(method, f"{url}?{asked}", headers=headers))  # ty: ignore[invalid-argument-type]

    run(count, {"path": paths, "text": TEXTS, "query": given_by_query, "key": keys}, check)


@examples(60, 1_500)
def test_any_value_comes_back_or_fails_in_words(service: Service, count: int) -> None:
    def check(value: object, how: str) -> None:
        job = service.submit("speaks", {"document": json.dumps(value), "how": how})
        status = ended(service, job)
        result = service.http.get(f"/api/v1/jobs/{job}/result")
        document = checked(result)
        if how == "error" or not is_json(value):
            assert status["state"] == "failed", status
            assert status["dead_letter"]
            letter = checked(service.http.get(f"/api/v1/dead-letters/{job}"))
            assert letter["error"] == status["error"]
            if how != "error":
                assert "not JSON" in status["error"]
                assert letter["reason"] == "permanent"
            checked(service.http.get(f"/console/dead-letters/{job}"))
        else:
            assert status["state"] == "succeeded", status
            expected = {"number": value if isinstance(value, float) else 0, "anything": value}
            assert document == (expected if how == "model" else value)
        checked(service.http.get(f"/console/jobs/{job}"))
        if how == "progress" and isinstance(value, str):
            shown = value.encode("utf-8", "backslashreplace").decode()
            assert shown.startswith(status["progress"]["message"][:1_000])

    run(count, {"value": VALUES | REFERENCES | ENCODED | TEXTS, "how": st.sampled_from(HOWS)}, check)
    checked(service.http.get("/api/v1/dead-letters"))
    checked(service.http.get("/console"))
    checked(service.http.get("/metrics"))
    assert service.health()["ok"]


def look(service: Service, job: str) -> dict[str, Any]:
    return checked(service.http.get(f"/api/v1/jobs/{job}"))


def ended(service: Service, job: str) -> dict[str, Any]:
    """Its status once it has ended: looked at more often than `until` does, for thousands of jobs of milliseconds."""
    give_up = time.monotonic() + 20
    while (status := look(service, job))["state"] not in FINAL:
        assert time.monotonic() < give_up, status
        time.sleep(0.003)
    return status


KEYS: dict[str, str] = {}
"""The job of each key in this service."""


@examples(30, 500)
def test_any_text_is_a_key(service: Service, count: int) -> None:
    """By the payload; the same text is the same job, another text another one."""
    jobs = KEYS

    def check(text: str) -> None:
        answer = service.post("keyed_by", {"text": text})
        document = checked(answer)
        if not text:
            assert answer.status_code == 202
            return
        assert answer.status_code == (200 if text in jobs else 202), answer.text
        assert jobs.setdefault(text, document["id"]) == document["id"]
        assert len(look(service, document["id"])["idempotency_key"]) <= 255

    texts = (
        TEXTS.filter(is_json) | st.text("ab:|", max_size=4) | st.sampled_from(["long" * 100_000, "k" * 255, "k" * 256])
    )
    run(count, {"text": texts}, check)
    assert len(set(jobs.values())) == len(jobs)


AT_A_TERMINAL = """
import io, json, sys
from {package}.cli import main

class Terminal(io.TextIOWrapper):
    def isatty(self):
        return True

for line in sys.stdin:
    arguments, encoding, terminal = json.loads(line)
    shown = [(Terminal if terminal else io.TextIOWrapper)(io.BytesIO(), encoding=encoding) for _ in range(2)]
    real, sys.argv = (sys.stdout, sys.stderr), ["service", *arguments]
    sys.stdout, sys.stderr = shown
    try:
        code = main() or 0
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException as error:
        code = f"{{type(error).__name__}}: {{error!r}}"
    finally:
        for stream in shown:
            stream.flush()
        sys.stdout, sys.stderr = real
    texts = [stream.buffer.getvalue().decode("latin-1") for stream in shown]
    print(json.dumps([code, *texts]), flush=True)
"""


class Commands:
    """Commands in one process, as at a terminal: each takes milliseconds and not a second."""

    def __init__(self, service: Service) -> None:
        code = AT_A_TERMINAL.format(package=service.installed.package)
        self.process = subprocess.Popen(
            [str(service.installed.python), "-c", code],
            cwd=service.folder,
            env={**service.environment, "TERM": "dumb"},  # for which rich itself writes no escapes
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, encoding: str = "utf-8", terminal: bool = True) -> tuple[object, bytes, bytes]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps([arguments, encoding, terminal]) + "\n")
        self.process.stdin.flush()
        code, out, err = json.loads(self.process.stdout.readline())
        return code, out.encode("latin-1"), err.encode("latin-1")


@pytest.fixture(scope="module")
def commands(session_service: Service) -> Iterator[Commands]:
    started = Commands(session_service)
    yield started
    started.process.kill()
    started.process.wait()


NUMBERS_THAT_ARE_NONE = ["NaN", "Infinity", "-Infinity", '"nan"', '"-inf"', "1e999", '"1e999"']


@pytest.mark.parametrize("number", NUMBERS_THAT_ARE_NONE)
@pytest.mark.parametrize("place", ['{{"number":{},"measured":{{}}}}', '{{"number":1,"measured":{{"number":{}}}}}'])
def test_what_is_no_number_is_refused_as_a_payload(
    service: Service, commands: Commands, number: str, place: str
) -> None:
    before = service.metric("jobs_enqueued_total", job="takes")
    answer = service.http.post("/api/v1/jobs/takes", content=place.format(number))
    assert answer.status_code in (400, 422), answer.text
    assert strict(answer.content)["detail"]
    code, _, said = commands.run("run", "takes", f"--data={place.format(number)}")
    assert code == 2
    assert b"JSON" in said
    assert service.metric("jobs_enqueued_total", job="takes") == before


IN_PYTHON = """
import asyncio, inspect, math, sys
from {package}.jobs.{stack}_texts import keyed_by, speaks, takes, Measured
from {package}.ops.engine import engine

async def main():
    engine()
    for name, call in (
        ("an argument", lambda: takes.submit(math.nan, Measured())),
        ("inside a model", lambda: takes.submit(1.0, Measured(number=math.inf))),
        ("inside anything", lambda: takes.submit(1.0, Measured(anything=[{{"a": -math.inf}}]))),
        ("half an emoji", lambda: speaks.submit("\\ud83d", "result")),
        ("a key", lambda: keyed_by.submit("\\ud83d")),
        ("a delay", lambda: engine().submit("noop", {{}}, delay=math.nan)),
        ("a long delay", lambda: engine().submit("noop", {{}}, delay=1e308)),
        ("a negative delay", lambda: engine().submit("noop", {{}}, delay=-1)),
        ("a priority", lambda: engine().submit("noop", {{}}, priority=10)),
        ("half a priority", lambda: engine().submit("noop", {{}}, priority=5.5)),
    ):
        try:
            found = call()
            print(name, await found if inspect.isawaitable(found) else found)
        except Exception as error:
            print(f"{{name}}: {{type(error).__name__}}: {{error}}".encode("ascii", "backslashreplace").decode())
    await engine().close()

asyncio.run(main())
"""


def test_what_is_no_number_is_refused_in_python(service: Service) -> None:
    command = [
        str(service.installed.python),
        "-c",
        IN_PYTHON.format(package=service.installed.package, stack=service.installed.stack.answers["stack"]),
    ]
    done = subprocess.run(
        command, cwd=service.folder, env=service.environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    refused = dict(line.partition(": ")[::2] for line in done.stdout.splitlines())
    assert len(refused) == 10, done.stdout
    for name in ("an argument", "inside a model", "inside anything"):
        assert "JSON has no number" in refused[name], refused[name]
    assert all(("Error: " in text or text.startswith("InvalidPayload: ")) for text in refused.values()), done.stdout


def test_ids_that_look_like_ours_are_no_jobs(service: Service) -> None:
    dead = service.submit("speaks", {"document": '"dead"', "how": "error"})
    ended(service, dead)
    running = service.submit("mark", {"label": "runs meanwhile", "seconds": 3})
    service.wait(running, "running")
    for job in ("queues", f"{running}:lease", f"{dead}:lease", "dead", "metrics", f"job:{running}", f"{running}|"):
        for method, place in (
            ("GET", "jobs/{}"), ("GET", "jobs/{}/result"), ("GET", "jobs/{}/events"), ("DELETE", "jobs/{}"),
            ("GET", "dead-letters/{}"), ("POST", "dead-letters/{}/replay"), ("DELETE", "dead-letters/{}"),
        ):  # fmt: skip
            answer = service.http.request(method, f"/api/v1/{place.format(job)}")
            assert answer.status_code == 404, f"{method} {place.format(job)}: {answer.text}"
        assert service.http.get(f"/console/jobs/{job}").status_code == 404
        assert service.http.get(f"/console/dead-letters/{job}").status_code == 404
    assert service.queue("default")["dead_letters"] >= 1
    service.wait(running)


FOREIGN = """
from {package}.contract import DeadLetter
for payload in (float("nan"), "\\ud83d", {{"a": [1e999]}}, b"\\xff", {{"fine": None}}):
    letter = DeadLetter(id="1", job="", queue="", reason="undecodable", error="", failed_at=0, payload=payload)
    print(letter.model_dump_json())
"""


def test_the_payload_of_a_foreign_client_is_shown(service: Service) -> None:
    command = [str(service.installed.python), "-c", FOREIGN.format(package=service.installed.package)]
    shown = [strict(line) for line in subprocess.check_output(command, env=service.environment).splitlines()]
    assert [letter["payload"] for letter in shown] == ["nan", "'\\ud83d'", "{'a': [inf]}", "b'\\xff'", {"fine": None}]


OBEYED = {chr(code) for span in ((0, 32), (127, 160), (0x2028, 0x202F), (0x2066, 0x206A)) for code in range(*span)}
TYPED = [
    ["status", "{job}"], ["status", "{job}", "--json"], ["dead-letters", "show", "{job}"], ["result", "{job}"],
    ["dead-letters", "show", "{job}", "--json"], ["status", "--", "{text}"], ["run", "--", "{text}"],
    ["run", "noop", "--data={text}"], ["run", "keyed_by", "--key={text}"], ["dead-letters", "discard", "--", "{text}"],
]  # fmt: skip


@examples(60, 300)
def test_a_terminal_shows_any_text_and_obeys_none(service: Service, commands: Commands, count: int) -> None:
    def check(text: str, typed: list[str], encoding: str, terminal: bool) -> None:
        job = service.submit("speaks", {"document": json.dumps(text), "how": "error"})
        error = ended(service, job)["error"]
        arguments = [word.replace("{job}", job).replace("{text}", text) for word in typed]
        code, out, err = commands.run(*arguments, encoding=encoding, terminal=terminal)
        assert code in (0, 1, 2), (arguments, code)
        assert b"Traceback (most recent call last)" not in err
        assert code == 0 or err.startswith((b"error: ", b"Error: ", b"Usage: ")) or not err, err
        if "--json" in arguments:
            assert strict(out)["error"] == error
        elif typed[0] != "result":
            assert not set(out.decode(encoding)) & (OBEYED - {"\n"}), (arguments, out)
        if err.startswith(b"error: "):
            assert not set(err.decode(encoding)) & (OBEYED - {"\n"}), (arguments, err)

    encodings = st.sampled_from(["utf-8", "ascii", "latin-1"])
    drawn = {"text": TEXTS, "typed": st.sampled_from(TYPED), "encoding": encodings, "terminal": st.booleans()}
    run(count, drawn, check)


def test_each_line_of_the_log_is_a_document(service: Service) -> None:
    """In the whole session, so also what the other tests here have made workers and the API log."""
    for value in [*NASTY, "x" * 900_000]:
        service.submit("speaks", {"document": json.dumps(value), "how": "log"})
    logs = [process.log for process in service.processes if process.name in ("worker", "api")]
    ended(service, service.submit("speaks", {"document": '"the last one"', "how": "log"}))
    until(lambda: any(b"the last one" in log.read_bytes() for log in logs), 10)
    for log in logs:
        for line in log.read_bytes().splitlines():
            if line.startswith(b"{"):
                assert len(line) < 400_000
                strict(line)
