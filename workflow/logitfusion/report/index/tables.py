"""Every number: a table for each track, those of the papers, and all rows of the tidy table.

The tables are plain HTML and read as they are; DataTables, as itables bundles it, makes them sort, search and download
without a network. The bundle is kept compressed in the page.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from itables.utils import read_package_file

from logitfusion.report.index.facts import Facts
from logitfusion.report.index.grids import Grid, show_grid
from logitfusion.report.index.page import PageSection, read_asset
from logitfusion.report.index.published import published_grids, repeated_grids
from logitfusion.report.index.results import make_grids
from logitfusion.report.index.words import escape

# What most readers filter by comes first; columns that are the same in every row are left out.
FILTERED = ("method", "track", "task", "metric", "shots")


# About 40 bytes of the page each; a run with more has its metrics.csv.
MOST_ROWS = 12_000


def tables_section(facts: Facts) -> PageSection:
    """The second section."""
    grids = make_grids(facts)
    body = [
        f"<article><h3>{escape(_title(grid.name))}</h3>{show_grid(grid)}"
        f"{''.join(map(_titled, repeated_grids(facts, grid.name)))}{_published(grid.name)}</article>"
        for grid in grids
    ]
    if not grids:
        body.append('<p class="problem">There is no metrics table, so there are no numbers.</p>')
    if len(facts.metrics):
        body.append(_tidy(facts))
    return PageSection(
        "tables",
        "Tables",
        "\n".join(body),
        style=read_asset("tables.css"),
        script=read_asset("tables.js"),
        data=_data(facts),
    )


def numbers_section(facts: Facts) -> PageSection:
    """All rows of the tidy table, for a page of their own."""
    body = _tidy(facts) if len(facts.metrics) else '<p class="problem">There is no metrics table.</p>'
    style, script = read_asset("tables.css"), read_asset("tables.js")
    return PageSection("numbers", "Every number", body, style=style, script=script, data=_data(facts))


def _data(facts: Facts) -> dict[str, Any]:
    """DataTables, and the rows of the tidy table if there is one."""
    bundle = {name: read_package_file("html", f"dt_bundle.{name}") for name in ("js", "css")}
    return {"datatables": bundle} | ({"metrics": _tidy_data(facts.metrics)} if len(facts.metrics) else {})


def _title(track: str) -> str:
    return {"fusion": "Fusion", "distill": "Distillation", "clip": "Few-shot CLIP"}[track]


def _published(track: str) -> str:
    shown = "".join(map(_titled, published_grids(track)))
    title = "Published numbers of the paper (other models and data)"
    return f'<details class="published"><summary>{title}</summary>{shown}</details>'


def _titled(grid: Grid) -> str:
    """A grid under its caption, which is hidden in the table itself."""
    return f"<h4>{escape(grid.caption)}</h4>{show_grid(grid)}"


def _tidy(facts: Facts) -> str:
    rows = len(facts.metrics)
    shown = f"The first {MOST_ROWS} of {rows} rows" if rows > MOST_ROWS else f"{rows} rows"
    return (
        f'<article><h3>Every number, tidy</h3><p class="note">{shown}, one number each, as in'
        f" <code>{escape(facts.files.metrics.with_suffix('.csv'))}</code>.</p>"
        '<div class="table-box" role="region" aria-label="Every number, tidy" tabindex="0">'
        '<table class="results tidy" id="table-tidy" data-name="metrics" data-rows="metrics">'
        "<caption>Every number, tidy</caption></table></div></article>"
    )


def _tidy_data(table: pd.DataFrame) -> dict[str, Any]:
    """Columns and rows as the script takes them."""
    same = [name for name in table.columns if table[name].nunique(dropna=False) == 1 and name not in FILTERED]
    kept = table.drop(columns=same).head(MOST_ROWS)
    order = [*FILTERED, *(name for name in kept.columns if name not in FILTERED)]
    told = kept[order].astype(object).where(kept[order].notna(), None).replace({math.inf: "inf", -math.inf: "-inf"})
    rows = told.to_numpy().tolist()
    return {"columns": order, "filtered": list(FILTERED), "rows": rows}
