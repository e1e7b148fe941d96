"""The examples of the page in a browser: filters, order, search, side by side, keyboard, and thousands of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import WIDTHS, Visit, follow_tabs, visit
from playwright.sync_api import Browser, Locator, Page
from synthetic import make_images, make_texts

from logitfusion.report.index.examples import examples_sections
from logitfusion.report.index.page import write_page

pytestmark = pytest.mark.browser
OUTCOMES = ("∅ no answer", "✗ wrong", "✓ right")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two fusion tasks, distillation with all methods side by side, and test images."""
    sources = [
        make_texts({"first": 40, "second": 25}, 4),
        make_texts({"asked": 12}, 3, title="Distillation", beside="*"),
        make_images(100),
    ]
    path = tmp_path_factory.mktemp("page") / "small.html"
    write_page(examples_sections(sources, full_page="elsewhere"), "Small", path)
    return path.as_uri()


@pytest.fixture
def opened(browser: Browser, small: str) -> Iterator[Visit]:
    with visit(browser, small) as seen:
        yield seen


def explorer(page: Page, number: int = 0) -> Locator:
    return page.locator(".examples").nth(number)


def outcomes(part: Locator) -> list[str]:
    return part.locator(".method:first-child .outcome").all_inner_texts()


def count(part: Locator) -> int:
    return int(re.search(r"(\d+) of \d+ \w+ match", part.locator(".count").inner_text())[1])


def turn_pages(part: Locator, read: Callable[[Locator], list[str]]) -> list[str]:
    """What is read from all pages."""
    found = read(part)
    while (following := part.locator("nav button").last).is_enabled():
        following.click()
        found += read(part)
    return found


def test_every_example_is_there_failures_first(opened: Visit) -> None:
    part = explorer(opened.page)
    titles = turn_pages(part, lambda part: part.locator("h4").all_inner_texts())
    assert sorted(titles) == sorted(f"first, example {number}" for number in range(40))
    part.get_by_label("Task", exact=True).select_option("1")
    order = [OUTCOMES.index(one) for one in turn_pages(part, outcomes)]
    assert len(order) == 25
    assert order == sorted(order)
    assert set(order) == {0, 1, 2}


def test_filters_by_outcome_and_words(opened: Visit) -> None:
    part = explorer(opened.page)
    counts = []
    for letter, words in zip("nwr", OUTCOMES, strict=True):
        part.get_by_label("Outcome", exact=True).select_option(letter)
        assert set(turn_pages(part, outcomes)) == {words}
        counts.append(count(part))
    assert sum(counts) == 40
    part.get_by_label("Outcome", exact=True).select_option("")
    part.get_by_label("Search", exact=True).fill("QUESTION 17:")
    assert part.locator("h4").all_inner_texts() == ["first, example 17"]
    assert "<this> & that" in part.locator(".prompt").inner_text()


def test_two_methods_side_by_side_and_where_they_differ(opened: Visit) -> None:
    part = explorer(opened.page)
    part.get_by_label("Method", exact=True).select_option("method_2")
    part.get_by_label("Beside it", exact=True).select_option("method_3")
    part.get_by_label("Outcome", exact=True).select_option("loss")
    for example in part.locator(".example").all():
        names, words = example.locator(".judgement b").all_inner_texts(), example.locator(".outcome").all_inner_texts()
        assert names == ["method_2", "method_3"]
        assert words[0] != OUTCOMES[2]
        assert words[1] == OUTCOMES[2]
    assert part.locator(".example").count()
    part.get_by_label("Beside it", exact=True).select_option("*")
    assert part.locator(".example").first.locator(".method").count() == 4


def test_tokens_tell_weights_and_expert_by_keyboard(opened: Visit) -> None:
    part = explorer(opened.page)
    tokens = part.locator(".tokens").first.locator("button")
    tokens.first.focus()
    opened.page.keyboard.press("ArrowRight")
    words = tokens.nth(1).get_attribute("aria-label")
    assert re.fullmatch(r"token 2, .+: sentiment \d\.\d{3}, sums \d\.\d{3}, knowledge \d\.\d{3}; chosen: \w+", words), (
        words
    )
    assert part.locator(".detail").first.inner_text() == words
    opened.page.keyboard.press("End")
    assert opened.page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("token 6")


def test_images_are_counted_by_what_the_method_changed(opened: Visit) -> None:
    part = explorer(opened.page, 2)
    kinds = ("loss", "wrong", "gain", "right")
    counts = []
    for kind in kinds:
        part.get_by_label("CLIP alone, then the method", exact=True).select_option(kind)
        counts.append(count(part))
        marks = [text[0] for text in part.locator("figure").first.locator(".outcome").all_inner_texts()]
        assert marks == {"loss": ["✓", "✗"], "wrong": ["✗", "✗"], "gain": ["✗", "✓"], "right": ["✓", "✓"]}[kind]
    assert sum(counts) == 100


def test_tab_reaches_every_control_once_and_in_order(opened: Visit) -> None:
    stops = follow_tabs(opened.page)
    wanted = opened.page.evaluate(
        """[...document.querySelectorAll("a[href], button, select, input, summary, [tabindex='0']")].filter((one) =>
        !one.disabled && one.tabIndex >= 0 && one.checkVisibility()).length"""
    )
    assert len(stops) == wanted
    assert not [stop for stop in stops if "unseen" in stop]


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wrong_with_the_section(browser: Browser, small: str, width: str, pictures: Path) -> None:
    with visit(browser, small, WIDTHS[width]) as seen:
        seen.page.wait_for_selector(".sheet figure")
        seen.picture(pictures / f"examples-{width}.png")
        assert seen.faults() == []


def test_thousands_of_examples_stay_out_of_the_document(browser: Browser, tmp_path: Path) -> None:
    write_page(examples_sections([make_texts({"big": 5000}, 10)], full_page="x"), "Big", tmp_path / "big.html")
    with visit(browser, (tmp_path / "big.html").as_uri()) as seen:
        part = explorer(seen.page)
        part.get_by_label("Beside it", exact=True).select_option("*")
        part.get_by_label("Search", exact=True).fill("question 4999")
        assert part.locator("h4").all_inner_texts() == ["big, example 4999"]
        part.get_by_label("Search", exact=True).fill("")
        part.get_by_label("Outcome", exact=True).select_option("w")
        assert 0 < count(part) < 5000
        assert seen.page.evaluate("document.querySelectorAll('*').length") < 3000
        assert seen.faults() == []


def test_a_page_that_is_cut_says_so(browser: Browser, tmp_path: Path) -> None:
    sources = [make_texts({"one": 300, "two": 20}, 4), make_images(60)]
    write_page(
        examples_sections(sources, full_page="reports/r/index.html", most_bytes=30_000), "Cut", tmp_path / "c.html"
    )
    with visit(browser, (tmp_path / "c.html").as_uri()) as seen:
        words = explorer(seen.page).locator(".count").inner_text()
        shown = int(re.search(r"Only (\d+) of 300 are on this page; all are in reports/r/index.html", words)[1])
        assert 20 < shown < 300
        explorer(seen.page).get_by_label("Task", exact=True).select_option("1")
        assert "Only" not in explorer(seen.page).locator(".count").inner_text()
