"""The console of the API: who is let in, what its pages may do, what its forms do and what it shows."""

import hmac
import re
import time
from collections.abc import Iterator
from html import escape, unescape
from typing import Any
from uuid import uuid4

import httpx
import pytest

from .installed import Installed
from .processes import until, within
from .service import Service, running

PAGES = ("", "/submit", "/dead-letters")
HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>'\"&"


@pytest.fixture(scope="module")
def guarded(installed: Installed) -> Iterator[Service]:
    with running(installed, workers=0, api_tokens="first-secret,second-secret") as service:
        yield service


class Browser(httpx.Client):
    """Keeps cookies, asks for pages, and says where a form comes from; follows no redirect by itself."""

    def __init__(self, service: Service) -> None:
        self.origin = f"http://{service.http.base_url.netloc.decode()}"
        super().__init__(base_url=self.origin, headers={"Accept": "text/html"}, timeout=10)

    def request(self, method: str, url: Any, **options: Any) -> httpx.Response:
        """Below /console."""
        return super().request(method, f"/console{url}", **options)

    def send_form(self, path: str, fields: Any = None, origin: str | None = None) -> httpx.Response:
        return self.post(path, data=fields or {}, headers={"Origin": self.origin if origin is None else origin})

    def sign_in(self, token: str, origin: str | None = None) -> httpx.Response:
        return self.send_form("/login", {"token": token}, origin)

    def text(self, path: str = "", code: int = 200) -> str:
        answer = self.get(path)
        assert answer.status_code == code, f"{path}: {answer.status_code} {answer.text}"
        return answer.text


@pytest.fixture
def browser(service: Service) -> Iterator[Browser]:
    with Browser(service) as browser:
        yield browser


@pytest.fixture
def visitor(guarded: Service) -> Iterator[Browser]:
    """Of the service that asks for a token."""
    with Browser(guarded) as browser:
        yield browser


def cookie(service: Service) -> str:
    """The name of the session's cookie."""
    return f"{service.installed.package}-console"


def signed(token: str, expires: float) -> str:
    said = f"{int(expires)}.nonce"
    return f"{said}.{hmac.new(token.encode(), f'console session {said}'.encode(), 'sha256').hexdigest()}"


# Who is let in


@pytest.mark.parametrize("path", [*PAGES, "/jobs/some-id", "/dead-letters/some-id"])
def test_without_a_session_a_browser_is_asked_for_the_token(visitor: Browser, path: str) -> None:
    answer = visitor.get(path)
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/login")
    assert 'type="password"' in visitor.text("/login")


def test_without_a_session_no_events_are_sent_and_no_form_is_taken(visitor: Browser) -> None:
    assert visitor.get("/events", headers={"Accept": "text/event-stream"}).status_code == 401
    refused = visitor.post("/submit", data={"job": "noop", "payload": "{}"}, headers={"Accept": "*/*"})
    assert refused.status_code == 401


@pytest.mark.parametrize("token", ["", "wrong", "first-secret,second-secret", "first", "\N{SNOWMAN}"])
def test_a_wrong_token_starts_no_session(visitor: Browser, token: str) -> None:
    answer = visitor.sign_in(token)
    assert answer.status_code == 401
    assert "not valid" in answer.text
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("token", ["first-secret", "second-secret"])
def test_a_token_starts_a_session_that_scripts_and_other_sites_cannot_use(visitor: Browser, token: str) -> None:
    answer = visitor.sign_in(token)
    assert (answer.status_code, answer.headers["location"]) == (303, "/console")
    flags = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert flags == {"httponly", "samesite=strict", "path=/console", "max-age=43200"}
    assert token not in answer.headers["set-cookie"]
    for path in PAGES:
        assert "Sign out" in visitor.text(path)


def test_behind_tls_the_cookie_never_travels_in_the_clear(visitor: Browser) -> None:
    answer = visitor.sign_in("first-secret", visitor.origin.replace("http:", "https:"))
    assert "; Secure" in answer.headers["set-cookie"]


def test_a_session_opens_the_console_and_nothing_else(guarded: Service, visitor: Browser) -> None:
    value = visitor.sign_in("first-secret").cookies[cookie(guarded)]
    for path in ("/api/v1/queues", "/metrics", "/docs", "/consoles"):
        answer = httpx.get(guarded.http.base_url.join(path), headers={"Cookie": f"{cookie(guarded)}={value}"})
        assert answer.status_code == 401, path


def test_a_session_ends_with_its_time_and_cannot_be_forged(guarded: Service, visitor: Browser) -> None:
    later = time.time() + 60
    good, expired = signed("first-secret", later), signed("first-secret", time.time() - 1)
    forged = [signed("", later), signed("another", later), f"9{good}", good[:-1], "", ".", "1.2.3", "\N{SNOWMAN}.x.y"]
    for value, code in [(good, 200), (expired, 303), *((value, 303) for value in forged)]:
        header = f"{cookie(guarded)}={value}".encode()
        assert visitor.get("", headers={b"Cookie": header}).status_code == code, value


def test_signing_out_forgets_the_session(visitor: Browser) -> None:
    visitor.sign_in("first-secret")
    assert visitor.send_form("/logout").headers["location"] == "/console/login"
    assert visitor.get("").status_code == 303


def test_a_link_from_another_site_finds_the_session_by_loading_once_more(visitor: Browser) -> None:
    """With a request that another site caused a browser does not send the cookie; with the page's own it does."""
    answer = visitor.get("", headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 200
    assert 'http-equiv="refresh" content="0"' in answer.text
    assert visitor.get("", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 303
    posted = visitor.post("/logout", headers={"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"})
    assert posted.headers["location"] == "/console/login"


@pytest.mark.parametrize("origin", ["", "null", "http://evil.example", "http://127.0.0.1:9", "http://localhost"])
def test_a_form_of_another_site_does_nothing(visitor: Browser, browser: Browser, service: Service, origin: str) -> None:
    visitor.sign_in("first-secret")
    label = str(uuid4())
    fields = {"job": "mark", "payload": f'{{"label": "{label}"}}'}
    for each in (visitor, browser):
        assert each.send_form("/submit", fields, origin).status_code == 403
        assert each.send_form("/schedules/tick/pause", {}, origin).status_code == 403
    assert visitor.sign_in("first-secret", origin).status_code == 403
    assert not service.effects(label=label)


def test_without_tokens_this_machine_needs_no_session(browser: Browser) -> None:
    assert "Sign out" not in browser.text()
    assert browser.get("/login").headers["location"] == "/console"
    assert browser.get("", headers={"Host": "evil.example"}).status_code == 403


# What a page may do


def test_a_page_runs_nothing_but_its_own_script_and_loads_nothing(service: Service, browser: Browser) -> None:
    job = service.submit("noop")
    nonces = set()
    for path in (*PAGES, f"/jobs/{job}", "/jobs/no-such-job", "/nowhere"):
        answer = browser.get(path)
        if answer.status_code == 404 and "json" in answer.headers["content-type"]:
            continue
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
        assert policy["form-action"] == "'self'"
        assert "unsafe" not in answer.headers["content-security-policy"]
        [nonce] = re.findall(r"'nonce-(.+)'", policy["script-src"])
        nonces.add(nonce)
        assert all(f'nonce="{nonce}"' in tag for tag in re.findall(r"<(?:script|style)\b[^>]*>", answer.text))
        assert not re.findall(r"<[^>]+\s(?:on\w+|style)=", answer.text)
        assert not re.findall(r"""(?:src|href|action)=["']?(?:https?:)?//""", answer.text)
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert len(nonces) >= 5, "a nonce must not repeat"


def test_whatever_a_job_says_is_shown_as_text(service: Service, browser: Browser) -> None:
    job = service.submit("permanent", {"label": HOSTILE}, key=HOSTILE[:200])
    service.wait(job, "failed")
    service.inject("unknown", queue="default", job="<b>evil</b>")
    until(lambda: "evil" in browser.text(""), 20)
    shown = {path: browser.text(path) for path in ("", "/dead-letters", f"/dead-letters/{job}", f"/jobs/{job}")}
    shown["events"] = first_events(service, 7)
    wrong = browser.send_form("/submit", {"job": "permanent", "payload": f'{{"x": {HOSTILE}', "key": HOSTILE})
    assert wrong.status_code == 422
    shown["wrong"] = wrong.text
    shown["not found"] = browser.text("/jobs/%3Cscript%3Ealert(1)", code=404)
    for path, text in shown.items():
        assert "<script>alert" not in text, path
        assert "<img" not in text, path
        assert "<b>evil" not in text, path
    assert escape(HOSTILE, quote=False).replace("'", "&#39;").replace('"', "&#34;") in shown[f"/dead-letters/{job}"]
    assert "&lt;b&gt;evil" in shown[""]


def test_an_error_is_a_page_with_a_way_back(browser: Browser) -> None:
    for path in ("/jobs/no-such-job", "/dead-letters/no-such-letter"):
        text = browser.text(path, code=404)
        assert "no-such" in text
        assert 'href="/console"' in text


# What its forms do


def following(browser: Browser, answer: httpx.Response) -> str:
    """The id of the job that a form led to."""
    assert answer.status_code == 303, answer.text
    found = re.fullmatch(r"/console/jobs/([^/?]+)(\?before=1)?", answer.headers["location"])
    assert found, answer.headers["location"]
    browser.text(answer.headers["location"].removeprefix("/console"))
    return found[1]


def test_a_job_is_submitted_by_name_with_a_payload(service: Service, browser: Browser) -> None:
    text = unescape(browser.text("/submit?job=effect"))
    assert '"key": ""' in text, "the payload to start from"
    key = str(uuid4())
    fields = {"job": "effect", "payload": f'{{"key": "{key}"}}', "queue": "default", "priority": "9", "delay": "0.1"}
    job = following(browser, browser.send_form("/submit", fields))
    done = service.wait(job)
    assert (done["name"], done["queue"], done["priority"], done["idempotency_key"]) == ("effect", "default", 9, key)
    again = browser.send_form("/submit", fields)
    assert following(browser, again) == job
    assert "used before" in browser.text(again.headers["location"].removeprefix("/console"))
    assert browser.get(f"/jobs/{job}/result").json() == key


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"payload": '{"label": 1'}, "EOF"),
        ({"payload": '{"seconds": "long"}'}, "label: Field required"),
        ({"payload": '{"label": "x"}', "delay": "-1"}, "a delay is"),
        ({"payload": '{"label": "x"}', "delay": "nan"}, "a delay is"),
        ({"payload": '{"label": "x"}', "queue": "nowhere"}, "nowhere"),
        ({"payload": '{"label": "x"}', "priority": "10"}, "0 to 9"),
    ],
)
def test_a_wrong_form_says_what_is_wrong_and_keeps_what_was_filled_in(
    browser: Browser, fields: dict[str, str], said: str
) -> None:
    answer = browser.send_form("/submit", {"job": "mark", "key": "my-key", **fields})
    assert answer.status_code == 422
    assert said in answer.text
    assert escape(fields["payload"]).replace("&quot;", "&#34;") in answer.text
    assert "my-key" in answer.text


def test_a_form_that_is_too_large_is_refused(service: Service, browser: Browser) -> None:
    assert browser.send_form("/submit", {"job": "mark", "payload": "x" * 1_100_000}).status_code == 413


def test_a_dead_letter_is_shown_replayed_and_discarded(service: Service, browser: Browser) -> None:
    first, second = (service.submit("permanent", {"label": str(uuid4())}) for _ in range(2))
    for job in (first, second):
        service.wait(job, "failed")
        assert job in browser.text(f"/dead-letters/{job}")
        assert "card expired" in browser.text(f"/dead-letters/{job}")
    new = following(browser, browser.send_form(f"/dead-letters/{first}/replay"))
    assert service.status(new)["replay_of"] == first
    assert browser.send_form(f"/dead-letters/{second}/discard").headers["location"] == "/console/dead-letters"
    browser.text(f"/dead-letters/{second}", code=404)
    assert browser.send_form(f"/dead-letters/{second}/discard").status_code == 404


def test_dead_letters_are_filtered_and_acted_on_together(service: Service, browser: Browser) -> None:
    jobs = [service.submit("permanent", {"label": str(uuid4())}) for _ in range(3)]
    for job in jobs:
        service.wait(job, "failed")
    found = browser.text("/dead-letters?job=permanent&reason=permanent")
    assert all(job in found for job in jobs)
    assert not any(job in browser.text("/dead-letters?job=permanent&reason=poison") for job in jobs)
    assert browser.send_form("/dead-letters", {"id": jobs, "act": "nothing"}).status_code == 303
    assert browser.send_form("/dead-letters", {"id": [*jobs[:2], "no-such"], "act": "discard"}).status_code == 409
    assert browser.send_form("/dead-letters", {"id": jobs[2:], "act": "replay"}).status_code == 303
    assert not {letter["id"] for letter in service.dead_letters()} & set(jobs)
    assert service.status(jobs[2])["replayed_as"]


def test_a_running_job_is_cancelled(service: Service, browser: Browser) -> None:
    job = service.submit("steps", {"seconds": 2})
    service.wait(job, "running")
    assert browser.send_form(f"/jobs/{job}/cancel").headers["location"] == f"/console/jobs/{job}"
    service.wait(job, "cancelled")


def test_a_schedule_is_paused_and_resumed(service: Service, browser: Browser) -> None:
    def state() -> tuple[bool, bool]:
        [tick] = [schedule for schedule in service.get("/schedules") if schedule["name"] == "tick"]
        return tick["paused"], "/schedules/tick/resume" in browser.text()

    assert state() == (False, False)
    for verb, after in (("pause", (True, True)), ("pause", (True, True)), ("resume", (False, False))):
        assert browser.send_form(f"/schedules/tick/{verb}").headers["location"] == "/console#schedules"
        assert state() == after
    assert browser.send_form("/schedules/no-such/pause").status_code == 404


# What it shows


def events(service: Service, path: str = "/events", within: float = 20) -> Iterator[str]:
    """Each section as the server sends it."""
    address = service.http.base_url.join(f"/console{path}")
    with httpx.stream("GET", address, headers=service.http.headers, timeout=within) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines: list[str] = []
        for line in stream.iter_lines():
            if line.startswith("data: "):
                lines.append(line.removeprefix("data: "))
            elif not line and lines:
                yield "\n".join(lines)
                lines.clear()


def first_events(service: Service, count: int) -> str:
    return "\n".join(text for text, _ in zip(events(service), range(count), strict=False))


def test_a_running_job_appears_with_its_progress_by_itself(service: Service) -> None:
    stream = events(service)
    job = service.submit("steps", {"seconds": 5})  # longer than the page is old when its server is busy
    deadline = time.monotonic() + 20
    for text in stream:
        assert time.monotonic() < deadline
        if 'id="running"' in text and job in text and "<progress" in text:
            break
    assert "of 2" in text
    assert re.search("VALIDATING|PROCESSING|UPLOADING", text)
    service.http.delete(f"/api/v1/jobs/{job}")


def test_a_job_is_followed_to_its_end(service: Service) -> None:
    seen = list(events(service, f"/jobs/{service.submit('steps', {'seconds': 0.6})}/events"))
    assert len(seen) > 3
    assert all('id="job-status"' in text for text in seen)
    assert ["data-final" in text for text in seen] == [False] * (len(seen) - 1) + [True]
    assert "succeeded" in seen[-1]


def test_failed_runs_and_the_depth_of_queues_are_remembered(service: Service, browser: Browser) -> None:
    service.wait(service.submit("flaky", {"label": str(uuid4()), "times": 2}))
    depth = r'aria-label="Depth of default: at most \d+, now \d+"'
    until(lambda: re.search(r"flaky.*?\d+ retried", browser.text().partition('id="failures"')[2], re.DOTALL), 30)
    assert re.search(depth, browser.text())


def test_everything_the_operator_needs_is_on_one_page(service: Service, browser: Browser) -> None:
    text = browser.text()
    for title in ("Queues", "Running now", "Recent failures", "Dead letters", "Schedules", "Workers", "Submit"):
        assert re.search(rf"<h2[^>]*>{title}", text), title
    assert service.health()["workers"][0]["name"] in text
    assert "send_digest" in text


def test_an_outage_is_said_within_3_s_and_ends_by_itself(installed: Installed) -> None:
    with running(installed, workers=0) as service, Browser(service) as browser:
        browser.text()
        stream = events(service)
        next(stream)
        service.broker.freeze()
        until(lambda: "No connection to the broker" in browser.get("").text, 5)
        with within(3):
            browser.text(code=503)
        assert any("No connection to the broker" in text for text in stream)
        service.broker.thaw()
        assert any('id="status"' in text and "No connection" not in text for text in stream)


def test_an_open_page_does_not_hold_up_the_end(installed: Installed) -> None:
    with running(installed, workers=0) as service:
        stream = events(service)
        next(stream)
        assert service.api.stop(within=5) in (0, -15)
        assert all("<section" in text for text in stream), "what was on its way, then the end"
