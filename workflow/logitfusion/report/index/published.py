"""Numbers that papers print, as data: shown beside ours, labelled, and never mixed with them."""

from __future__ import annotations

from importlib.resources import files

import yaml

from logitfusion.config.section import Listed, Section, Some
from logitfusion.report.index.grids import Cell, Column, Grid


class PublishedTable(Section):
    """A table of a paper."""

    name: str
    """For ids and files."""
    caption: str
    """What was measured, on which models."""
    setting: str
    """What a comparison has to know."""
    columns: Some[str]
    """The first names the rows."""
    rows: Listed[Listed[str | float | None]]
    """One cell a column; empty where the paper has none."""


class Published(Section):
    """The tables of one track's paper."""

    source: str
    """The paper."""
    tables: Listed[PublishedTable]
    """In the order of the page."""


def published_grids(track: str) -> list[Grid]:
    """The published tables of a track."""
    text = files("logitfusion.report.published").joinpath(f"{track}.yaml").read_text(encoding="utf-8")
    paper = Published.model_validate(yaml.safe_load(text))
    return [_grid(track, table, paper.source) for table in paper.tables]


def _grid(track: str, table: PublishedTable, source: str) -> Grid:
    rows = [[_cell(value, title) for value, title in zip(row, table.columns, strict=True)] for row in table.rows]
    note = f"Published, not measured here: {source}. {table.setting[0].upper()}{table.setting[1:]}"
    return Grid(
        f"published-{track}-{table.name}",
        f"Published, other models and data: {table.caption}",
        [Column(title, "higher" if place else None) for place, title in enumerate(table.columns)],
        rows,
        note,
    )


def _cell(value: str | float | None, column: str) -> Cell:
    if value is None or isinstance(value, str):
        return Cell(value or "")
    return Cell(f"{value:.3f}" if column == "gap closure" else f"{value:.2f}", value=float(value))
