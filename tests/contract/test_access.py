"""Who may call: this machine when no token is set, holders of a token when one is."""

from collections.abc import Iterator

import httpx
import pytest

from .installed import Installed
from .service import Service, running

OPEN = ("/health/live", "/health/ready")
GUARDED = (
    "/api/v1/jobs",
    "/api/v1/jobs/some-id",
    "/api/v1/queues",
    "/api/v1/schedules",
    "/api/v1/dead-letters",
    "/health/jobs",
    "/metrics",
    "/console",
    "/console/events",
    "/docs",
    "/openapi.json",
    "/no-such-path",
)


@pytest.fixture(scope="module")
def guarded(installed: Installed) -> Iterator[Service]:
    with running(installed, workers=0, api_tokens="first-secret,second-secret") as service:
        yield service


def get(service: Service, path: str, **headers: str) -> httpx.Response:
    """Without the token that the service's own client sends."""
    return httpx.get(service.http.base_url.join(path), headers=headers)


def test_on_loopback_no_token_is_needed_when_none_is_set(service: Service) -> None:
    assert get(service, "/api/v1/queues").status_code == 200


@pytest.mark.parametrize("header", ["host", "origin"])
def test_a_web_page_cannot_submit_through_the_browser_of_a_developer(service: Service, header: str) -> None:
    value = "http://evil.example" if header == "origin" else "evil.example"
    answer = httpx.post(service.http.base_url.join("/api/v1/jobs/noop"), json={}, headers={header: value})
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", GUARDED)
def test_with_tokens_set_everything_asks_for_one(guarded: Service, path: str) -> None:
    for wrong in ("", "Bearer", "Bearer wrong", "Basic first-secret"):
        answer = get(guarded, path, Authorization=wrong)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"] == "application/problem+json"
        assert "secret" not in answer.text


@pytest.mark.parametrize("path", OPEN)
def test_probes_need_no_token(guarded: Service, path: str) -> None:
    assert get(guarded, path).status_code == 200


def test_each_of_the_tokens_opens(guarded: Service) -> None:
    for token in ("first-secret", "second-secret"):
        assert get(guarded, "/api/v1/queues", Authorization=f"Bearer {token}").status_code == 200


def test_submitting_needs_a_token_too(guarded: Service) -> None:
    address = guarded.http.base_url.join("/api/v1/jobs/noop")
    assert httpx.post(address, json={}).status_code == 401
    assert guarded.queue("default")["depth"] == 0
    assert httpx.post(address, json={}, headers={"Authorization": "Bearer first-secret"}).status_code == 202
    assert guarded.queue("default")["depth"] == 1


def test_tokens_are_not_written_to_the_log(guarded: Service) -> None:
    get(guarded, "/api/v1/queues", Authorization="Bearer first-secret")
    assert "secret" not in guarded.api.log.read_text()


@pytest.mark.parametrize("by", ["option", "setting"])
def test_without_tokens_it_refuses_to_listen_beyond_this_machine(service: Service, by: str) -> None:
    option, setting = (["--host", "0.0.0.0"], {}) if by == "option" else ([], {"api_host": "0.0.0.0"})
    said = service.cli("api", "--port", "0", *option, code=2, within=3, **setting)
    assert "API_TOKENS" in said
    assert "0.0.0.0" in said
