"""A headless Chromium that may ask for nothing, and what is wrong with a page in it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, Route

LEAST_TEXT = 12  # px
WIDTHS = {"desk": 1280, "phone": 390}
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHECKS = (Path(__file__).parent / "checks.js").read_text()
# What scripts fill is filled.
READY = """() => [...document.querySelectorAll("table[data-rows]")].every((one) => one.tBodies[0]?.rows.length)
    && [...document.querySelectorAll(".examples")].every((one) => one.querySelector(".count")?.textContent)"""
CONTROLS = {"button", "link", "textbox", "searchbox", "combobox", "checkbox", "radio", "slider", "image", "img"}


def find_chromium() -> Path | None:
    """A Chromium in PATH; as root on Debian one is installed where none is."""
    found = _look_up()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["apt-get", "update"], ["apt-get", "install", "--yes", "--no-install-recommends", "chromium"]):
            subprocess.run(
                command, check=False, capture_output=True, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            )
        found = _look_up()
    return found


def _look_up() -> Path | None:
    return next((Path(path) for name in NAMES if (path := shutil.which(name))), None)


def start_browser(playwright: Playwright, chromium: Path) -> Browser:
    """The browser of all tests; Chromium's own sandbox refuses root."""
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    return playwright.chromium.launch(executable_path=chromium, args=options)


@dataclass
class Visit:
    """A page that is open, and what it did that it must not.

    Attributes:
        page: of Playwright.
        problems: errors that it wrote to the console, and requests that left it.
    """

    page: Page
    problems: list[str] = field(default_factory=list)

    def picture(self, path: Path, most: int = 12_000) -> None:
        """Keep a picture of the page, of a very long one of its beginning."""
        size = self.page.evaluate("[document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": min(size[1], most)}
        self.page.screenshot(path=path, full_page=True, clip=clip, timeout=60_000)

    def check(self, name: str, *arguments: Any) -> list[str]:
        """What one function of checks.js finds."""
        return self.page.evaluate(f"(values) => {CHECKS}[{name!r}](...values)", list(arguments))

    def faults(self) -> list[str]:
        """Everything that is wrong with the page as it is now."""
        found = [*self.problems, *self.check("smallText", LEAST_TEXT)]
        for name in ("brokenPictures", "emptyDrawings", "cutText", "tables", "overflow", "duplicateIds"):
            found += self.check(name)
        return found + self.unnamed()

    def unnamed(self) -> list[str]:
        """Controls and pictures for which a screen reader has no name, as Chromium computes it."""
        session = self.page.context.new_cdp_session(self.page)
        nodes = session.send("Accessibility.getFullAXTree")["nodes"]
        session.detach()
        return [
            f"{role} without a name"
            for node in nodes
            if not node.get("ignored")
            and (role := node.get("role", {}).get("value", "")) in CONTROLS
            and not node.get("name", {}).get("value")
        ]


@contextmanager
def visit(browser: Browser, url: str, width: int = WIDTHS["desk"], height: int = 900) -> Iterator[Visit]:
    """A page in a window of some size; what it asks for beyond its own file is refused and noted."""
    context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce")
    context.set_default_timeout(10_000)
    page = context.new_page()
    seen = Visit(page)

    def refuse(route: Route) -> None:
        seen.problems.append(f"request: {route.request.url[:120]}")
        route.abort()

    def listen(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            seen.problems.append(f"console: {message.text[:300]}")

    page.route(lambda address: not address.startswith(("file:", "data:", "blob:", "about:")), refuse)
    page.on("console", listen)
    page.on("pageerror", lambda error: seen.problems.append(f"error: {error}"))
    try:
        page.goto(url)
        page.wait_for_load_state("networkidle")
        page.wait_for_function(READY)
        yield seen
    finally:
        context.close()


def follow_tabs(page: Page, most: int = 2000) -> list[str]:
    """What the Tab key reaches, in order, until it leaves the page or starts anew; each marked with its number."""
    page.evaluate("document.activeElement?.blur(); window.stops = new Map()")
    reached = []
    for _ in range(most):
        page.keyboard.press("Tab")
        stop = page.evaluate(
            """() => { const one = document.activeElement;
            if (!one || one === document.body || stops.has(one)) return null;
            stops.set(one, true); const box = one.getBoundingClientRect();
            return `${one.tagName} ${(one.getAttribute("aria-label") || one.innerText || one.id).trim().slice(0, 40)}`
              + (box.width && box.height ? "" : " (unseen)"); }"""
        )
        if stop is None:
            break
        reached.append(stop)
    return reached
