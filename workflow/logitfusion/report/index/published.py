"""The tables of the papers: alone, or with what a run measured beside each number, labelled and never mixed with it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import pandas as pd

from logitfusion.report.index.facts import Facts
from logitfusion.report.index.grids import Cell, Column, Grid
from logitfusion.report.published import PublishedCell, PublishedTable, read_published

CLOSURE = Column("gap closure", "higher", "(average - base's) / (ceiling's - base's), computed here")


def published_grids(track: str) -> list[Grid]:
    """The published tables of a track, alone."""
    return [_show_alone(table) for table in read_published(track)]


def repeated_grids(facts: Facts, track: str) -> list[Grid]:
    """The tables that the run's config says it repeats (``report.published``), with its numbers beside the paper's."""
    named = facts.run.report.published
    return [_show_beside(table, facts.track(track)) for table in read_published(track) if table.name in named]


def _show_alone(table: PublishedTable) -> Grid:
    columns = [Column("method"), *(Column(column) for column in table.columns)]
    rows = [[Cell(row), *(_published(table.find(row, column)) for column in table.columns)] for row in table.rows]
    if closures := _closures(table):
        columns.append(CLOSURE)
        for row, cells in zip(table.rows, rows, strict=True):
            cells.append(Cell(f"{closures[row]:.3f}", value=closures[row]) if row in closures else Cell())
    note = f"Published, not measured here: {table.source}. {table.protocol}"
    return Grid(f"published-{table.name}", f"Published, other models and data: {table.caption}", columns, rows, note)


def _closures(table: PublishedTable) -> dict[str, float]:
    """Row -> the share of the gap that it closes, for rows between its ends that have an average."""
    base, ceiling = table.find(table.base, "average"), table.find(table.ceiling, "average")
    if base is None or ceiling is None:
        return {}
    averages = {row: table.find(row, "average") for row in table.rows if row not in (table.base, table.ceiling)}
    gap = ceiling.value - base.value
    return {row: (cell.value - base.value) / gap for row, cell in averages.items() if cell is not None}


def _show_beside(table: PublishedTable, rows: pd.DataFrame) -> Grid:
    columns, body = [Column("method", None, "as the paper calls it, and its name in this run")], []
    for column in table.columns:
        columns += [Column(f"{column}, published"), Column(f"{column}, here", "higher", "measured by this run, in %")]
    for row in table.rows:
        cells = [table.find(row, column) for column in table.columns]
        name = next((cell.method for cell in cells if cell is not None), "")
        body.append([Cell(row, name)])
        for cell in cells:
            body[-1] += [_published(cell), _measured(cell, rows)]
    note = (
        f"Published: {table.source}. {table.protocol} Here: this run's own numbers with their intervals, in %; means of"
        " tasks have none. Empty cells were not published, or not measured."
    )
    return Grid(f"repeated-{table.name}", f"Published, and measured here: {table.caption}", columns, body, note)


def _published(cell: PublishedCell | None) -> Cell:
    return Cell() if cell is None else Cell(cell.printed, value=cell.value)


def _measured(cell: PublishedCell | None, rows: pd.DataFrame) -> Cell:
    """The run's number of a published one, in %; empty where a part of it was not measured."""
    if cell is None or not cell.method or not cell.measured or not len(rows):
        return Cell()
    groups = [[_find(rows, cell, place) for place in group.split()] for group in cell.measured.split("|")]
    found = [row for group in groups for row in group]
    if any(row is None for row in found):
        return Cell()
    value = 100 * fmean(fmean(row["value"] for row in group) for group in groups)
    interval = "" if len(found) > 1 else _interval(found[0])
    return Cell(f"{value:.2f}", interval, value)


def _interval(row: pd.Series) -> str:
    ends = (row["ci_low"], row["ci_high"])
    return "" if any(map(pd.isna, ends)) else "[{:.2f}, {:.2f}]".format(*(100 * end for end in ends))


def _find(rows: pd.DataFrame, cell: PublishedCell, place: str) -> pd.Series | None:
    """The row of the tidy table that ``task/metric`` names, over all seeds; None where there is not exactly one."""
    task, _, metric = place.partition("/")
    same: Sequence[bool] = (rows["method"] == cell.method) & (rows["task"] == task) & (rows["metric"] == metric)
    same &= rows["seed"].isna()  # those of single seeds stand beside it
    if cell.shots:
        same &= rows["shots"] == int(cell.shots)
    found = rows[same]
    return found.iloc[0] if len(found) == 1 else None
