"""The report of a finished run in a browser: Snakemake's, every entry of it, and our page that is read first."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from browser import WIDTHS, Visit, follow_tabs, visit
from playwright.sync_api import Browser, Locator, Page, expect

pytestmark = pytest.mark.browser
SNAKEMAKES_OWN = "cdn.tailwindcss.com"  # what its report says on the console by itself


@dataclass(frozen=True)
class Entry:
    """An entry of Snakemake's report, where its menu has it and what it holds."""

    path: str
    category: str
    name: str
    mime: str
    uri: str

    @property
    def content(self) -> str:
        return b64decode(self.uri.split("base64,", 1)[1]).decode()


@pytest.fixture(scope="module")
def report(browser: Browser, reports: Path) -> Iterator[Visit]:
    with visit(browser, (reports / "report.html").as_uri()) as seen:
        yield seen


@pytest.fixture(scope="module")
def entries(report: Visit) -> list[Entry]:
    found = report.page.evaluate(
        """Object.entries(categories).flatMap(([category, subs]) => Object.values(subs).flat().map((path) => [path,
        category, results[path].labels.entry, results[path].mime_type, results[path].data_uri]))"""
    )
    return [Entry(*values) for values in found]


@pytest.fixture(scope="module")
def full_page(reports: Path) -> str:
    (page,) = reports.glob("*/index.html")
    return page.as_uri()


def test_the_landing_text_points_to_the_page_in_paragraphs(report: Visit, pictures: Path) -> None:
    report.page.screenshot(path=pictures / "report.png")
    text = report.page.locator(".prose")
    assert text.locator("p").first.inner_text().startswith("Open 1 Start here first")
    gaps = text.locator("p").evaluate_all("all => all.map((one) => parseFloat(getComputedStyle(one).marginBottom))")
    assert len(gaps) > 3
    assert gaps[0] >= 8
    text.get_by_role("link", name="1 Start here").click()
    expect(report.page.get_by_text("What ran, what came out, examples, cost")).to_be_visible()


def test_entries_are_ordered_and_each_has_its_own_name(entries: list[Entry]) -> None:
    names = [entry.name for entry in entries]
    assert len(set(names)) == len(names)
    assert all(re.match(r"\d \w", entry.category) for entry in entries)
    assert min(entries, key=lambda entry: entry.category).path.endswith("index.html")


def open_entry(page: Page, entry: Entry) -> None:
    """As a reader does, from the menu: category, then the eye beside the entry."""
    page.evaluate("app.setView({ navbarMode: 'menu' })")
    page.get_by_role("link", name=entry.category, exact=True).first.click()
    page.locator("tr", has=page.get_by_text(entry.name, exact=True)).get_by_role("link").first.click()


def test_every_plot_draws_with_text_that_can_be_read(
    browser: Browser, report: Visit, entries: list[Entry], pictures: Path
) -> None:
    plots = [entry for entry in entries if entry.mime == "image/svg+xml"]
    assert plots
    problems = {}
    for plot in plots:
        open_entry(report.page, plot)
        picture = report.page.locator(".p-3 > img")
        picture.wait_for()
        natural, width = picture.evaluate(
            "async (one) => { await one.decode(); return [one.naturalWidth, one.clientWidth] }"
        )
        report.page.screenshot(path=pictures / f"report-{Path(plot.path).stem}.png")
        top = picture.evaluate(
            "one => { one.closest('.overflow-auto').scrollTop = 0; return one.getBoundingClientRect().top }"
        )
        found = [*([] if natural > 0 else ["no natural size"]), *([] if top >= 0 else ["its top can't be reached"])]
        with visit(browser, "about:blank") as seen:
            drawing = plot.content[plot.content.index("<svg") :]
            seen.page.set_content(
                f"<title>a plot</title><style>svg {{ display: block; width: {width}px; height: auto }}</style>{drawing}"
            )
            found += seen.faults() + describe_drawing(seen.page.locator("body > svg"))
        if found:
            problems[plot.name] = found
    assert problems == {}
    assert not ours(report)


def describe_drawing(drawing: Locator) -> list[str]:
    """What a screen reader lacks of a drawing."""
    role = drawing.get_attribute("role")
    title, description = (drawing.locator(f"> {tag}").text_content() for tag in ("title", "desc"))
    return [] if role == "img" and title and description else [f"role {role}, title {title}, description {description}"]


def ours(seen: Visit) -> list[str]:
    """The problems that are not Snakemake's own."""
    return [problem for problem in seen.problems if SNAKEMAKES_OWN not in problem]


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wrong_with_the_pages_in_the_report(
    browser: Browser, entries: list[Entry], width: str, pictures: Path
) -> None:
    pages = [entry for entry in entries if entry.mime == "text/html"]
    problems = {}
    for entry in pages:
        with visit(browser, entry.uri, WIDTHS[width]) as seen:
            seen.picture(pictures / f"entry-{Path(entry.path).stem}-{width}.png")
            if found := seen.faults():
                problems[entry.name] = found
    assert problems == {}


def test_pages_open_in_the_frames_of_the_report(report: Visit, entries: list[Entry], pictures: Path) -> None:
    for entry in entries:
        if entry.mime == "text/html":
            open_entry(report.page, entry)
            frame = report.page.frame_locator("iframe")
            frame.locator("h1").first.wait_for()
            report.page.screenshot(path=pictures / f"frame-{Path(entry.path).stem}.png")
            assert frame.locator(".problem", has_text="newer browser").count() == 0
    assert not ours(report)


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wrong_with_the_page(browser: Browser, full_page: str, width: str, pictures: Path) -> None:
    with visit(browser, full_page, WIDTHS[width]) as seen:
        seen.picture(pictures / f"page-{width}.png")
        seen.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
        seen.picture(pictures / f"page-{width}-open.png")
        assert seen.faults() == []


def test_the_page_prints(browser: Browser, full_page: str, pictures: Path) -> None:
    with visit(browser, full_page) as seen:
        paper = seen.page.pdf(path=pictures / "page.pdf", print_background=False)
        assert len(re.findall(rb"/Type\s*/Page\b", paper)) > 1
        seen.page.emulate_media(media="print")
        assert seen.check("overflow") == []
        seen.picture(pictures / "page-print.png")


def test_the_header_and_the_first_column_of_a_table_stay(browser: Browser, full_page: str) -> None:
    with visit(browser, full_page) as seen:
        table = seen.page.locator("table.tidy")
        box = seen.page.locator(".dt-layout-table", has=table)
        box.evaluate("one => { one.scrollTop = 200; one.scrollLeft = 100 }")
        edge, head = box.bounding_box(), table.locator("thead th").first.bounding_box()
        assert head["y"] == pytest.approx(edge["y"], abs=3)
        assert head["x"] == pytest.approx(edge["x"], abs=3)


def test_tables_sort_as_numbers_search_and_download(browser: Browser, reports: Path, full_page: str) -> None:
    with visit(browser, full_page) as seen:
        table = seen.page.locator("table.tidy")
        box = seen.page.locator(".dt-container", has=table)
        place = table.locator("thead th").all_inner_texts().index("value")
        head, top = table.locator("thead th").nth(place), table.locator(f"tbody tr td:nth-child({place + 1})").first
        head.click()
        expect(head).to_have_attribute("aria-sort", "ascending")
        rising, least = read_numbers(table, place), top.inner_text()
        head.click()
        expect(top).not_to_have_text(least)  # a long table is drawn anew a moment later
        falling = read_numbers(table, place)
        assert rising == sorted(rising)
        assert falling == sorted(falling, reverse=True)
        assert rising != falling
        total = table_rows(box)
        box.get_by_label("Search").fill("no such words")
        assert table_rows(box) == 0
        box.get_by_label("Search").fill("")
        with seen.page.expect_download() as download:
            box.get_by_role("button", name="CSV").click()
        rows = pd.read_csv(download.value.path())
        assert len(rows) == total
        assert seen.problems == []


def read_numbers(table: Locator, place: int) -> list[float]:
    cells = table.locator(f"tbody tr td:nth-child({place + 1})").all_inner_texts()
    return [float(cell.replace("\u2212", "-")) for cell in cells if cell.strip()]


def table_rows(box: Locator) -> int:
    words = box.locator(".dt-info").inner_text()
    return 0 if "no rows" in words else int(words.split(" of ")[0].replace(",", ""))


def test_tab_reaches_every_control_of_the_page(browser: Browser, full_page: str) -> None:
    with visit(browser, full_page) as seen:
        stops = follow_tabs(seen.page)
        missed = seen.page.evaluate(
            """[...document.querySelectorAll("a[href], button, select, input, summary")]
            .filter((one) => !one.disabled && one.tabIndex >= 0 && one.checkVisibility() && !stops.has(one))
            .map((one) => one.outerHTML.slice(0, 80))"""
        )
        assert missed == []
        assert len(stops) > 20
        seen.page.locator("nav a").first.focus()
        seen.page.keyboard.press("Enter")
        assert seen.page.evaluate("document.activeElement.id") == seen.page.locator(
            "main > section"
        ).first.get_attribute("id")
