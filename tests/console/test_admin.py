"""The admin page of schedules in a real browser: an operator's first quarter of an hour with it.

    uv run --group console pytest tests/console/test_admin.py

Five minutes, since a crontab has no seconds. Writes docs/images/admin*.png: look at them.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect  # ty: ignore[import-not-found]

from ..contract.installed import Installed
from ..contract.processes import free_ports, listening, until
from ..contract.service import Service, running

IMAGES = Path(__file__).parents[2] / "docs" / "images"
PASSWORD = "a-password-of-the-tests"
WIDE = {"width": 1180, "height": 560}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """With the example jobs and `mark`, a scheduler, and an operator who was made by the command."""
    folder = tmp_path_factory.mktemp("admin") / "service"
    installed = Installed.render(folder, "celery", {"project_name": "Order Desk", "schedules": "database"})
    probes = folder / "src" / installed.package / "jobs" / "probes.py"
    probes.write_text(probes.read_text().replace('[Schedule("tick", tick, timedelta(seconds=2))]', "[]"))
    with running(installed) as service:
        service.start_scheduler()
        until(lambda: service.get("/schedules"), 30)
        service.cli("admin", "createsuperuser", "ann", stdin=f"{PASSWORD}\n")
        yield service


@pytest.fixture(scope="module")
def page(service: Service, chromium: Browser) -> Iterator[Page]:
    [port] = free_ports(1)
    service.start("admin", service.installed.script, "admin", "--port", str(port))
    until(lambda: listening(port), 40)
    context = chromium.new_context(base_url=f"http://127.0.0.1:{port}", viewport=WIDE)
    page, said = context.new_page(), []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(request.url))
    page.on("request", lambda request: None if f":{port}/" in request.url else said.append(request.url))
    yield page
    context.close()
    assert not said, "scripts without errors, and nothing from elsewhere"


def test_a_crontab_is_made_fires_is_paused_and_fires_no_more(page: Page, service: Service) -> None:
    page.goto("/")
    expect(page).to_have_title("Log in | Order Desk: schedules")
    expect(page.get_by_role("link", name="Periodic tasks")).to_have_count(0)
    page.get_by_label("Username").fill("ann")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()

    page.get_by_role("link", name="Periodic tasks", exact=True).first.click()
    page.get_by_role("link", name="Add periodic task").first.click()
    page.get_by_label("Name:").fill("minutely-mark")
    page.get_by_label("Job:").select_option("mark")
    page.get_by_label("When (UTC):").fill("61 * * * *")
    page.get_by_label("Payload:").fill('{"label": "minutely"}')
    page.get_by_label("Description:").fill("Shows that it fires")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".errorlist")).to_contain_text("61 * * * *")
    page.screenshot(path=IMAGES / "admin-refused.png", clip={"x": 0, "y": 0, **WIDE})
    assert not any(each["name"] == "minutely-mark" for each in service.get("/schedules"))

    page.get_by_label("When (UTC):").fill("* * * * *")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("was added successfully")).to_be_visible()
    told = service.told("minutely", 2, within=150)
    assert 55 < told[1]["at"] - told[0]["at"] < 65
    page.reload()
    row = page.get_by_role("row", name="minutely-mark")
    expect(row.locator(".field-runs")).to_have_text("2")
    page.screenshot(path=IMAGES / "admin.png")

    row.get_by_role("checkbox").check()
    page.get_by_label("Action:").select_option("Pause")
    page.get_by_role("button", name="Go").click()
    expect(row.get_by_alt_text("False")).to_be_visible()
    paused = time.monotonic()
    until(lambda: time.monotonic() - paused > 70, 80)
    assert len(service.effects(label="minutely")) <= len(told) + 1
    seen = len(service.effects(label="minutely"))
    [shown] = [each for each in service.get("/schedules") if each["name"] == "minutely-mark"]
    assert (shown["paused"], shown["runs"], shown["silent"]) == (True, seen, False)

    row.get_by_role("link", name="minutely-mark").click()
    page.get_by_label("Enabled").check()
    page.get_by_role("button", name="Save", exact=True).click()
    service.told("minutely", seen + 1, within=80)

    page.get_by_role("button", name="Log out").click()
    page.goto("/django_celery_beat/periodictask/")
    expect(page).to_have_title("Log in | Order Desk: schedules")
