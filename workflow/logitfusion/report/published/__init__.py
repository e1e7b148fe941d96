"""Numbers that papers print, as data.

``tables.csv`` names the tables, with their source and what a comparison has to know; ``<track>.csv`` has their cells:

* ``table``, ``row``, ``column``, ``value``: as the paper prints them, shares in %;
* ``method``: the name of that row in the config of ``config/paper`` that repeats it, if one does;
* ``measured``: the same number in a run of that config, as ``task/metric``; of several tasks their mean, and with bars
  between groups of tasks the mean of the groups' means;
* ``shots``: of that number, in the few-shot track.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class PublishedCell:
    """One number of a paper, and how it prints it; empty texts where the workflow has none of its kind."""

    row: str
    column: str
    value: float
    printed: str
    method: str
    measured: str
    shots: str


@dataclass(frozen=True)
class PublishedTable:
    """A table of a paper.

    Attributes:
        name: for ids, files and configs.
        track: of the workflow.
        caption: what was measured, on which models.
        source: the paper.
        protocol: what a comparison has to know.
        base: the row where a gap begins, in the column ``average``; empty where there is no gap.
        ceiling: the row where it ends.
        cells: row by row, as in the paper.
    """

    name: str
    track: str
    caption: str
    source: str
    protocol: str
    base: str
    ceiling: str
    cells: tuple[PublishedCell, ...]

    @property
    def rows(self) -> list[str]:
        """In the paper's order."""
        return list(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def columns(self) -> list[str]:
        """In the paper's order."""
        return list(dict.fromkeys(cell.column for cell in self.cells))

    def find(self, row: str, column: str) -> PublishedCell | None:
        """A cell; None where the paper has none."""
        return next((cell for cell in self.cells if (cell.row, cell.column) == (row, column)), None)


def read_published(track: str) -> list[PublishedTable]:
    """The published tables of a track."""
    cells = _read(track)
    return [
        PublishedTable(
            name=table.pop("table"),
            **table,
            cells=tuple(_read_cell(cell) for cell in cells if cell["table"] == name),
        )
        for table in _read("tables")
        if table["track"] == track and (name := table["table"])
    ]


def _read_cell(cell: dict[str, str]) -> PublishedCell:
    return PublishedCell(
        **{key: text for key, text in cell.items() if key not in ("table", "value")},
        value=float(cell["value"]),
        printed=cell["value"],
    )


def _read(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(files(__name__).joinpath(f"{name}.csv").read_text(encoding="utf-8").splitlines()))
