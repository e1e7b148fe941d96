"""One browser for all tests, a finished run with its report, and a folder for the pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import find_chromium, start_browser
from checkout import ROOT, copy_checkout, snakemake
from playwright.sync_api import Browser, sync_playwright

GIVEN = "REPORT_CHECKOUT"  # a checkout whose reports/report.html is there: no run is made
SMOKE = ("--configfile", "config/smoke.yaml")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("No Chromium is in PATH: install one (on Debian: apt-get install chromium).")
    with sync_playwright() as playwright:
        browser = start_browser(playwright, chromium)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def pictures() -> Path:
    """Where the pictures of this session are kept, to be looked at."""
    folder = ROOT / "results/browser"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder ``reports`` of a finished run: of the checkout that is named, or of the smallest run, made here."""
    if given := os.environ.get(GIVEN):
        folder = Path(given).resolve() / "reports"
        assert (folder / "report.html").is_file(), f"{GIVEN}: {folder} has no report.html"
        return folder
    checkout = copy_checkout(tmp_path_factory.mktemp("checkout"))
    for arguments in (("--cores", "2"), ("--report", "reports/report.html")):
        done = snakemake(checkout, *SMOKE, *arguments, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stdout + done.stderr
    return checkout / "reports"
