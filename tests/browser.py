"""A real browser for the tests of the page: headless Chromium of the system, driven by Playwright."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find_browser() -> str | None:
    """Return the program that CHROMIUM names, or the first of the usual names that is installed."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def missing(reason: str) -> None:
    """Skip with the reason; fail where the environment variable CI is set, for there it would hide that nothing ran."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser, started once."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("the page is tested by playwright, which is not installed: pip install playwright")
    program = find_browser()
    if program is None:
        missing(f"no browser: none of {', '.join(NAMES)} is on the PATH, and CHROMIUM is not set")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Opened:
    """A page in a browser, with everything that it asked for and everything that it complained about."""

    def __init__(self, page: Any, *, strict: bool) -> None:
        self.page, self.strict = page, strict
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda line: line.type in ("error", "warning") and self.complaints.append(line.text))

    def rows(self) -> list[tuple[int, str, float, str]]:
        """The exact table: number, label, weight, how sure; from the largest weight down."""
        table = self.page.locator(".view:visible .table table").first
        more = table.locator("xpath=..").locator("button.more")
        if more.is_visible():
            more.click()
        cells = table.locator("tbody tr").evaluate_all(
            "rows => rows.map(row => [...row.children].map("
            "cell => (cell.querySelector('.link') || cell.querySelector('.value') || cell).textContent))"
        )
        return [(int(a), b, float(c.replace("−", "-")), d) for a, b, c, d in cells]

    def weights(self) -> dict[int, float]:
        """The weights in the table by number of the vector, from 0."""
        return {number - 1: weight for number, _, weight, _ in self.rows()}

    def token(self, index: int, view: int = 0) -> Any:
        """One word of the text."""
        return self.page.locator(".view:visible").nth(view).locator(f".token[data-index='{index}']")

    def head(self, words: str) -> None:
        """Choose a head, or the mean."""
        chips = self.page.locator("[role=radiogroup][aria-label=Head] label")
        chips.filter(has_text=re.compile(f"^{words}$")).click()

    def opening_ms(self) -> float:
        """Milliseconds from the start of loading to the finished page: the best of three, for the machine is shared."""
        found = []
        for _ in range(3):
            found.append(self.page.evaluate("+document.documentElement.dataset.ms"))
            if found[-1] < 3000:
                break
            self.page.reload()
            self.page.wait_for_selector("html[data-ready]", timeout=20000)
        return min(found)

    def outside(self) -> list[str]:
        """Requests for anything that is not the document itself or held in it."""
        own = self.page.url.split("#")[0]
        return [url for url in self.requests if url.split("#")[0] != own and not url.startswith(("data:", "blob:"))]


@pytest.fixture
def open_page(chromium: Any, tmp_path: Path) -> Iterator[Any]:
    """A function that writes the page of a document, opens it, and returns it when it has been drawn."""
    from vsattn.viewing.page import render

    opened: list[Opened] = []
    contexts = []

    def show(
        document: dict[str, Any],
        buffer: bytes,
        *,
        address: str = "",
        width: int = 1280,
        height: int = 900,
        dark: bool = False,
        text: str | None = None,
        strict: bool = True,
    ) -> Opened:
        """Open the page of a document, or the text given; a strict one must complain of nothing and ask for nothing."""
        scheme = "dark" if dark else "light"
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        context.set_default_timeout(8000)
        opened.append(Opened(context.new_page(), strict=strict))
        path = tmp_path / f"page{len(opened)}.html"
        path.write_text(render(document, buffer) if text is None else text, encoding="utf-8")
        opened[-1].page.goto(f"{path.as_uri()}{address}")
        opened[-1].page.wait_for_selector("html[data-ready]", timeout=20000)
        return opened[-1]

    yield show
    for found in opened:
        assert not found.strict or found.complaints + found.outside() == []
    for context in contexts:
        context.close()


def luminance(rgb: Any) -> float:
    """Relative luminance of WCAG 2."""
    return float(linear(rgb) @ [0.2126, 0.7152, 0.0722])


def linear(rgb: Any) -> np.ndarray:
    """Linear RGB of a colour in 0..255."""
    part = np.asarray(rgb, float) / 255
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def rgb(words: str) -> list[float]:
    """The numbers of ``rgb(1, 2, 3)``."""
    return [float(number) for number in re.findall(r"[\d.]+", words)[:3]]
