"""A table of results for people: cells with the number that they sort by, marks, headers that say what is better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from logitfusion.report.index.words import Better, enough_digits, escape, number, signed, span

ARROWS = {"higher": "↑", "lower": "↓"}


@dataclass(frozen=True)
class Cell:
    """What a cell shows.

    Attributes:
        text: of the first line.
        more: of a second, smaller one: an interval, a spread.
        value: that it sorts by, NaN where words stand for a number; its text where there is none.
        mark: ``best`` of its column, ``tied`` with the best (the interval of their difference holds 0), or nothing.
        bar: share of the column's largest value, drawn under the text.
    """

    text: str = ""
    more: str = ""
    value: float | None = None
    mark: Literal["", "best", "tied"] = ""
    bar: float | None = None


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        title: its header.
        better: which way is better; nothing where neither is.
        meaning: said when a reader asks for it.
        filtered: a menu of its values stands above the table.
    """

    title: str
    better: Better | None = None
    meaning: str = ""
    filtered: bool = False


@dataclass(frozen=True)
class Grid:
    """A table with a caption and a name for files; the first ``heads`` columns name its rows."""

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    heads: int = 1


def number_cell(row: Mapping[str, Any] | None, digits: int = 2, *, sign: bool = False, mark: str = "") -> Cell:
    """A number of the tidy table with its interval."""
    if row is None:
        return Cell()
    if pd.isna(row["value"]):
        return Cell("no gap", value=math.nan)
    digits = enough_digits(row, digits) if sign else digits
    text = signed(row["value"], digits) if sign else number(row["value"], digits)
    return Cell(text, span(row, digits), float(row["value"]), mark)


def plain_cell(value: float | None, form: str = ".2f") -> Cell:
    """A number without an interval."""
    return Cell() if value is None or pd.isna(value) else Cell(format(value, form), value=float(value))


def mark_extreme(cells: Sequence[Cell], better: Better) -> list[Cell]:
    """Mark the best of a column of numbers without intervals."""
    values = [cell.value for cell in cells if cell.value is not None and not math.isnan(cell.value)]
    if len(set(values)) < 2:
        return list(cells)
    best = max(values) if better == "higher" else min(values)
    return [Cell(cell.text, cell.more, cell.value, "best") if cell.value == best else cell for cell in cells]


def show_grid(grid: Grid) -> str:
    """A plain table that reads without JavaScript; a script makes it sort, search and download."""
    head = "".join(map(_header, grid.columns))
    body = "".join(f"<tr>{_cells(grid, row)}</tr>" for row in grid.rows)
    note = f'<p class="note">{escape(grid.note)}</p>' if grid.note else ""
    return (
        f'<div class="table-box" role="region" aria-label="{escape(grid.caption)}" tabindex="0">'
        f'<table class="results" id="table-{grid.name}" data-name="{grid.name}">'
        f"<caption>{escape(grid.caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}"
    )


def _header(column: Column) -> str:
    arrow = ""
    if column.better:
        arrow = f' <span class="arrow" title="{column.better} is better">{ARROWS[column.better]}</span>'
        arrow += f'<span class="unseen"> {column.better} is better</span>'
    meaning = f' title="{escape(column.meaning)}"' if column.meaning else ""
    title = _breakable(column.title)
    return f'<th scope="col"{meaning}{" data-filter" if column.filtered else ""}>{title}{arrow}</th>'


def _breakable(name: str) -> str:
    """A text that breaks after its underscores, where a line of a phone is too short for it."""
    return escape(name).replace("_", "_<wbr>")


def _cells(grid: Grid, row: Sequence[Cell]) -> str:
    pairs = zip(row, grid.columns, strict=True)
    return "".join(_cell(cell, column, place < grid.heads) for place, (cell, column) in enumerate(pairs))


def _cell(cell: Cell, column: Column, head: bool) -> str:
    name, scope = ("th", ' scope="row"') if head else ("td", "")
    ordered = cell.value is not None or not cell.text
    order = f' data-order="{_order(cell.value)}"' if ordered else ""
    kinds = " ".join(filter(None, [cell.mark, "number" if cell.value is not None else ""]))
    text = _breakable(cell.text) + _MARKS[cell.mark]
    more = f" <small>{escape(cell.more)}</small>" if cell.more else ""
    bar = f'<i class="share" style="width:{100 * cell.bar:.1f}%"></i>' if cell.bar is not None else ""
    label = column.title.replace("_", "_\N{ZERO WIDTH SPACE}")
    inside = f"<span>{text}</span>{more}{bar}" if cell.text else ""
    return f'<{name}{scope} class="{kinds}" data-label="{escape(label)}"{order}>{inside}</{name}>'


def _order(value: float | None) -> str:
    """What a cell sorts by; empty ones come first, and leave a column of numbers one of numbers."""
    return "" if value is None or math.isnan(value) else repr(value)


_MARKS = {
    "": "",
    "best": '<span class="unseen"> (best)</span>',
    "tied": '<span class="tie" title="not told apart from the best">≈</span>',
}
