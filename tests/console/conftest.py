"""Debian's Chromium, without a window."""

import shutil
from collections.abc import Iterator
from contextlib import closing

import pytest
from playwright.sync_api import Browser, sync_playwright  # ty: ignore[import-not-found]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path, "chromium is not on PATH: apt-get install chromium"
    with sync_playwright() as playwright, closing(playwright.chromium.launch(executable_path=path)) as browser:
        yield browser
