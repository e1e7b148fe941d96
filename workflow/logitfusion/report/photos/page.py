"""The page of classified photos: one file that asks for nothing."""

from __future__ import annotations

from pathlib import Path

from logitfusion.report.index import page
from logitfusion.report.index.page import PageSection, read_asset
from logitfusion.report.photos.columns import MOST_PICTURES, encode_photos
from logitfusion.report.photos.files import files_section
from logitfusion.report.photos.methods import methods_section
from logitfusion.report.photos.photos import Photos
from logitfusion.report.photos.summary import summary_section

STYLES = ("examples.css", "photo_sheet.css")
SCRIPTS = ("explorer.js", "photo_sheet.js")


def write_page(path: str | Path, photos: Photos, title: str = "Classified photos") -> None:
    """Write the page, all of it or none."""
    sections = [summary_section(photos), _sheet_section(photos), files_section(photos)]
    comparison = photos.head.comparison
    if comparison is not None and comparison.scores:
        sections.append(methods_section(comparison, photos.head.advice))
    page.write_page(sections, title, path)


def _sheet_section(photos: Photos) -> PageSection:
    remark = ""
    if len(photos.readable()) > MOST_PICTURES:
        remark = f"Pictures of {MOST_PICTURES} photos are on this page, failures and unsure ones first."
    return PageSection(
        anchor="photos",
        title="Photos",
        body='<div class="examples photos"></div>'
        "<noscript><p>The photos are sorted by a script; without one, read the file of answers.</p></noscript>",
        style="\n".join(map(read_asset, STYLES)),
        script="\n".join([*map(read_asset, SCRIPTS), _START]),
        data={"photos": {"method": photos.head.method, "remark": remark, "table": encode_photos(photos)}},
    )


_START = """
const { method, remark, table } = await loadData("photos");
new PhotoSheet(document.querySelector(".examples.photos")).show(table, method, remark);
"""
