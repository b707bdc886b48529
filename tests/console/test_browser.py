"""The console in a real browser: a person's way through it, and axe-core on each page, dark and light, wide and narrow.

    uv run --group console pytest tests/console        (CONSOLE_STACK=arq for the other stack)

Two minutes; needs `chromium` on PATH (Debian: apt-get install chromium) and npm, from which axe-core comes. Writes
the pictures in docs/images/: look at them.
"""

import os
import re
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect  # ty: ignore[import-not-found]

from ..contract.installed import Installed
from ..contract.processes import until
from ..contract.service import Service, running

AXE = "axe-core@4.14.1"
IMAGES = Path(__file__).parents[2] / "docs" / "images"
STACK = os.environ.get("CONSOLE_STACK", "celery")
TOKEN = "a-token-for-the-console"
WIDE, PHONE = (1280, 1330), (390, 1100)
REPORT = '{"title": "Sales of the year", "rows": 300000}'


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """With the example jobs alone, a scheduler, and some history."""
    folder = tmp_path_factory.mktemp("console") / "service"
    installed = Installed.render(folder, STACK, {"project_name": "Order Desk"})
    installed.remove_probes()
    with running(installed, api_tokens=TOKEN) as service:
        service.start_scheduler()
        fill(service)
        yield service


def control(service: Service, **failure: object) -> None:
    service.gateway.post("/control", json={"fail": [failure]}).raise_for_status()


def order(number: int) -> dict[str, object]:
    return {"order_id": f"order-{number}", "amount_cents": 1250 + number}


def fill(service: Service) -> None:
    """Waves of work for a minute, retries, and dead letters of several kinds."""
    items = [{"sku": f"sku-{n}", "price_cents": n} for n in range(60)]
    control(service, status=503, times=4, path="/charges")
    control(service, status=402, times=None, order_id="order-13")
    service.submit("process_order", order(13))
    service.submit("import_catalog", {"supplier": "acme", "items": [*items, {"sku": "sku-free", "price_cents": -1}]})
    service.submit("generate_report", {"title": " ", "rows": 3})
    service.inject("unknown", queue="default", job="send_fax")
    for wave in range(7):
        for number in range(12):
            service.submit("process_order", order(100 * wave + number + 20), delay=2.0 * (number % 5) + 6)
        service.submit("import_catalog", {"supplier": "acme", "items": items * (1 + wave % 3)})
        time.sleep(9)
    until(lambda: len(service.dead_letters()) >= 4, 30)


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script, from the npm registry."""
    folder = tmp_path_factory.mktemp("axe")
    subprocess.run(["npm", "pack", "--silent", AXE], cwd=folder, check=True, capture_output=True)
    [archive] = folder.glob("*.tgz")
    with tarfile.open(archive) as files:
        script = files.extractfile("package/axe.min.js")
        assert script
        return script.read().decode()


Opener = Callable[..., Page]


@pytest.fixture
def open_page(chromium: Browser, service: Service) -> Iterator[Opener]:
    """A signed-in page of a size and scheme; whatever its console complains of fails the test."""
    said: list[str] = []
    contexts = []

    def opened(size: tuple[int, int] = WIDE, scheme: str = "light", token: str = TOKEN) -> Page:
        width, height = size
        context = chromium.new_context(
            base_url=str(service.http.base_url),
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            reduced_motion="reduce",
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto("/console")
        if token:
            page.get_by_label("Token").fill(token)
            page.keyboard.press("Enter")
            page.wait_for_url("**/console")
        return page

    yield opened
    for context in contexts:
        context.close()
    expected = re.compile(r"status of (401|404|422)")
    assert not [text for text in said if not expected.search(text)]


def section(page: Page, name: str) -> Any:
    return page.locator(f"#{name}")


def test_a_wrong_token_is_told_and_a_right_one_opens(open_page: Opener) -> None:
    page = open_page(token="")
    expect(page).to_have_title("Sign in · Order Desk")
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("This token is not valid.")
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    assert page.evaluate("document.cookie") == "", "no script may read the session"
    page.get_by_role("button", name="Sign out").click()
    page.goto("/console")
    expect(page).to_have_title("Sign in · Order Desk")


def test_a_link_from_another_site_opens_the_console(open_page: Opener, service: Service) -> None:
    page = open_page()
    page.goto(f"data:text/html,<a href={service.http.base_url}/console/dead-letters>alert</a>")
    page.get_by_text("alert").click()
    expect(page.get_by_role("heading", name="Dead letters")).to_be_visible()


def test_submit_watch_dead_letter_replay_pause_by_keyboard_alone(open_page: Opener, service: Service) -> None:
    page = open_page()
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()

    def press(role: Any, name: str) -> None:
        """Reach it by Tab, and press it."""
        focused = "all => all.includes(document.activeElement)"
        for _ in range(150):
            page.keyboard.press("Tab")
            if page.get_by_role(role, name=name, exact=True).evaluate_all(focused):
                break
        else:
            raise AssertionError(f"Tab does not reach {name}")
        page.keyboard.press("Enter")

    def take(job: str) -> None:
        page.goto("/console/submit")
        page.get_by_label("Job", exact=True).focus()
        page.keyboard.type(job)
        press("button", "Take this one")
        expect(page.get_by_role("heading", name=job)).to_be_visible()

    def submit(payload: str) -> None:
        page.get_by_label("Payload (JSON)").focus()
        page.keyboard.press("Control+A")
        page.keyboard.insert_text(payload)
        press("button", "Submit")

    # submit and watch
    take("generate_report")
    submit('{"title": "Sales of the year"}')
    expect(page.get_by_role("alert")).to_contain_text("rows: Field required")
    submit(REPORT)
    page.wait_for_url("**/console/jobs/*")
    seen: set[float] = set()
    shown = "document.querySelector('#job-status progress')?.value ?? -1"
    until(lambda: seen.add(page.evaluate(shown)) or page.get_by_text("succeeded").is_visible(), 60)
    assert len(seen - {-1}) >= 2, f"progress by itself: {seen}"
    assert page.get_by_role("link", name="Result").is_visible()

    # a dead letter appears on a page that is open
    control(service, status=402, times=None, order_id="order-7")
    page.goto("/console")
    other = open_page()
    other.goto("/console/submit?job=process_order")
    other.get_by_label("Payload (JSON)").fill('{"order_id": "order-7", "amount_cents": 700}')
    other.get_by_role("button", name="Submit", exact=True).click()
    other.wait_for_url("**/console/jobs/*")
    job = other.url.rpartition("/")[2]
    row = section(page, "letters").get_by_role("row", name=re.compile(job[:8]))
    expect(row).to_contain_text("gateway refused with 402", timeout=20_000)

    # replay
    service.gateway.delete("/control", params={"order_id": "order-7"}).raise_for_status()
    row.get_by_role("link").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Dead letter of process_order")).to_be_visible()
    press("button", "Replay")
    expect(page.get_by_text("Replay of")).to_be_visible()
    expect(page.get_by_text("succeeded")).to_be_visible(timeout=20_000)
    assert service.status(page.url.rpartition("/")[2])["replay_of"] == job

    # pause, while the page goes on being refreshed under the focus
    page.goto("/console")
    inventory = section(page, "schedules").get_by_role("row", name=re.compile("inventory"))
    button = inventory.get_by_role("button", name="Pause inventory")
    button.focus()
    page.wait_for_timeout(4_500)
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    expect(inventory).to_contain_text("paused")
    assert {each["name"]: each["paused"] for each in service.get("/schedules")}["inventory"]
    press("button", "Resume inventory")
    expect(inventory).to_contain_text("fires")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_axe_finds_nothing_and_no_page_is_wider_than_the_screen(
    open_page: Opener, service: Service, axe: str, size: tuple[int, int], scheme: str
) -> None:
    kind = {(WIDE, "light"): "", (WIDE, "dark"): "-dark", (PHONE, "light"): "-phone"}.get((size, scheme))
    control(service, delay=12, times=3, path="/charges")
    numbers = [time.time_ns() % 10**9 + each for each in range(3)]
    waiting = [service.submit("process_order", order(number)) for number in numbers]
    for title in ("Sales of the year", "Stock"):
        service.submit("generate_report", {"title": title, "rows": 900_000})
    for _ in range(30):
        service.submit("import_item", {"sku": "sku-1", "price_cents": 1})
    service.wait(waiting[0], "running")
    [letter, *_] = [each["id"] for each in service.dead_letters() if each["job"] == "process_order"]
    page = open_page(size, scheme)
    expect(section(page, "running").locator("progress").first).to_be_visible(timeout=15_000)
    if kind is not None:
        page.screenshot(path=IMAGES / f"console{kind}.png")
    check(page, axe, "overview")
    for name, path in {
        "job": f"/jobs/{waiting[0]}",
        "failed-job": f"/jobs/{letter}",
        "dead-letters": "/dead-letters",
        "dead-letter": f"/dead-letters/{letter}",
        "submit": "/submit?job=process_order",
        "error": "/jobs/no-such-job",
    }.items():
        page.goto(f"/console{path}")
        check(page, axe, name)
        if kind == "" and name in ("dead-letter", "submit"):
            page.screenshot(path=IMAGES / f"console-{name}.png", clip={"x": 0, "y": 0, "width": size[0], "height": 640})
    page.goto("/console/submit?job=process_order")
    page.get_by_label("Payload (JSON)").fill("{}")
    page.get_by_role("button", name="Submit", exact=True).click()
    expect(page.get_by_role("alert")).to_be_visible()
    check(page, axe, "a refused form")
    check(open_page(size, scheme, token=""), axe, "login")


def check(page: Page, axe: str, name: str) -> None:
    page.evaluate(axe)
    found = page.evaluate("axe.run(document)")
    assert not [(each["id"], [node["html"] for node in each["nodes"]]) for each in found["violations"]], name
    assert found["passes"], "axe has looked"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{name} is too wide"
