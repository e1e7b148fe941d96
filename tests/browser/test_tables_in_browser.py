"""The page's tables in a browser, with the methods, tasks and shots of the demo: columns, menus, pages, downloads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from browser import WIDTHS, Visit, visit
from checkout import ROOT
from playwright.sync_api import Browser, Locator

from logitfusion.config.jobs.page import page_job
from logitfusion.config.load import load_config
from logitfusion.config.run import RunConfig
from logitfusion.evaluate.fusion import SEEN
from logitfusion.evaluate.table import DTYPES
from logitfusion.report.index.facts import RunFiles, gather_facts
from logitfusion.report.index.grids import Cell, Column, Grid, show_grid
from logitfusion.report.index.page import PageSection, write_page
from logitfusion.report.index.settings import settings_section
from logitfusion.report.index.tables import tables_section
from logitfusion.tables import write_table

pytestmark = pytest.mark.browser
RUN = load_config(ROOT / "config/config.yaml")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tables of a run of the demo's config: every method has a number at every task, every gain is negative."""
    folder = tmp_path_factory.mktemp("tables")
    write_table(make_metrics(RUN), folder / "metrics.parquet")
    facts = gather_facts(page_job(RUN), RunFiles(metrics=folder / "metrics.parquet", full=folder / "page.html"))
    formulas = [[Cell(text), Cell("plain")] for text in ("=1+1", "@SUM(A1)", 'a, "b"')]
    odd = PageSection("odd", "Odd", show_grid(Grid("odd", "Odd", [Column("name"), Column("kind")], formulas)))
    write_page([tables_section(facts), settings_section(facts), odd], "Tables", folder / "page.html")
    return (folder / "page.html").as_uri()


@pytest.fixture
def opened(browser: Browser, address: str) -> Iterator[Visit]:
    with visit(browser, address) as seen:
        yield seen


def make_metrics(run: RunConfig) -> pd.DataFrame:
    rows = []

    def add(track: str, method: str, task: str, metrics: list[str], shots: int | None = None) -> None:
        common = {"run": "demo", "track": track, "split": "test", "method": method, "task": task, "n": 100, "seeds": 1}
        common |= {"shots": shots, "confidence": 0.95}
        for metric in metrics:
            sign = -1 if metric.startswith("gain") else 1
            ends = {"ci_low": sign * 0.288 - 0.1, "ci_high": sign * 0.288 + 0.1}
            ends["better"] = "higher" if metric == "accuracy" else None
            rows.append(dict.fromkeys(DTYPES) | common | ends | {"metric": metric, "value": sign * 0.288})

    extra = ["behind_best", "format_failures", "tokens_per_second", "mean_weight"]
    for method in run.fusion.methods:
        for task in (SEEN, *run.tasks):
            add("fusion", method, task, ["accuracy", "gain", "gain_over_fixed", "gap_closure", "score_ratio", *extra])
    for method in run.clip.methods:
        for task in run.clip.datasets:
            for shots in run.clip.shots:
                gains = ["gain_over_zero_shot", "gain_over_auxiliary_probe", "calibration_error", "oracle_accuracy"]
                add("clip", method, task, ["accuracy", "accuracy_std", "seconds_of_fitting", *gains], shots)
    return pd.DataFrame(rows, columns=list(DTYPES), dtype=object).astype(DTYPES)


def box_of(seen: Visit, name: str) -> Locator:
    return seen.page.locator(".dt-container", has=seen.page.locator(f"#table-{name}"))


def test_every_column_of_the_tables_is_on_a_desk_screen(opened: Visit) -> None:
    assert opened.page.locator("#table-fusion th", has_text="tokens/s").count()
    assert opened.page.locator("#table-clip th", has_text="fit, s").count()
    opened.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    assert opened.check("hiddenColumns") == []


def test_a_menu_shows_its_values_without_markup_and_keeps_their_rows(opened: Visit) -> None:
    box = box_of(opened, "clip")
    menu = box.locator(".menus select")
    assert "<" not in "".join(menu.locator("option").all_text_contents())
    chosen = menu.locator("option").nth(1).text_content()
    menu.select_option(chosen)
    assert set(box.locator("tbody td:nth-child(2)").all_inner_texts()) == {chosen}


def test_long_tables_are_read_a_page_at_a_time_and_downloaded_whole(browser: Browser, address: str) -> None:
    with visit(browser, address, WIDTHS["phone"]) as seen:
        for name in ("tidy", "values"):
            box = box_of(seen, name)
            assert box.locator("tbody tr").count() == 25
            total = int(box.locator(".dt-info").inner_text().split(" of ")[0].replace(",", ""))
            assert total > 100
            with seen.page.expect_download() as download:
                box.get_by_role("button", name="CSV").click()
            assert len(pd.read_csv(download.value.path())) == total
        box.get_by_label("Search").fill("evaluate.bootstrap")
        assert 0 < box.locator("tbody tr").count() < 25


def test_a_download_holds_no_formula(opened: Visit, tmp_path: Path) -> None:
    with opened.page.expect_download() as download:
        box_of(opened, "odd").get_by_role("button", name="CSV").click()
    assert pd.read_csv(download.value.path())["name"].tolist() == ["'=1+1", "'@SUM(A1)", 'a, "b"']
