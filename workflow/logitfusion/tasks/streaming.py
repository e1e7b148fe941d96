"""Rows of a data set or a file, one after the other: those that are wanted, and of them the columns that are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitfusion.config.texts import FileTexts, HubTexts
from logitfusion.errors import UserError
from logitfusion.files import sha256
from logitfusion.formats.json import parse_json
from logitfusion.formats.text import read_lines
from logitfusion.tasks.formatting import Formatter
from logitfusion.tasks.hub_rows import BATCH, FetchedRows, explaining, open_rows

Row = tuple[int, dict[str, Any]]


class Source:
    """Rows of a data set of the hub, or of a file, and how they become texts."""

    def __init__(self, entry: HubTexts | FileTexts, fetched: FetchedRows | None = None) -> None:
        """
        Args:
            fetched: the record of the files that were downloaded, of a data set of the hub.
        """
        self.entry, self.fetched, self.formatter = entry, fetched, Formatter(entry)

    @property
    def title(self) -> str:
        """What a message calls it."""
        return f"The data set {self.entry.dataset}" if isinstance(self.entry, HubTexts) else self.entry.path

    def describe(self) -> dict[str, Any]:
        """Where its rows are, and exactly which."""
        if isinstance(self.entry, HubTexts):
            return {"dataset": self.entry.dataset, "commit": self.fetched.download["commit"]}
        return {"path": self.entry.path, "sha256": sha256(self.entry.path)}

    def stream(self, wanted: NDArray[np.bool_] | None = None) -> Iterator[Row]:
        """Rows with their numbers, from 0 on, in the source's order; at most ``BATCH`` of them are in memory.

        Args:
            wanted: for every number whether its row is wanted (``[rows]``); by default all are.

        Raises:
            UserError: rows that can't be read, or that lack a column.
        """
        if isinstance(self.entry, HubTexts):
            return self._stream_hub(wanted)
        return stream_lines(self.entry.path, self.formatter.columns, wanted)

    def _stream_hub(self, wanted: NDArray[np.bool_] | None) -> Iterator[Row]:
        columns = self.formatter.columns
        tables = iter(open_rows(self.entry.hub_rows, self.fetched, columns).with_format("arrow").iter(BATCH))
        start = 0
        while True:
            with explaining(self.entry.hub_rows):
                table = next(tables, None)
            if table is None:
                return
            numbers = np.arange(start, start + table.num_rows)
            start += table.num_rows
            if wanted is not None:
                chosen = wanted[numbers]
                table, numbers = table.filter(chosen), numbers[chosen]
            yield from zip(numbers.tolist(), table.select(list(columns)).to_pylist(), strict=True)


def stream_lines(path: str, columns: Sequence[str] = (), wanted: NDArray[np.bool_] | None = None) -> Iterator[Row]:
    """Rows of a file with one JSON object a line; see ``Source.stream``."""
    for number, line in read_lines(path):
        if line.strip() and (wanted is None or wanted[number - 1]):
            yield number - 1, _read_line(f"{path}, line {number},", line, columns)


def _read_line(place: str, line: str, columns: Sequence[str]) -> dict[str, Any]:
    row = parse_json(line, place, line=True)
    if not isinstance(row, dict):
        raise UserError(f"{place} is no JSON object.")
    if absent := [name for name in columns if name not in row]:
        raise UserError(f"{place} has no field {absent[0]!r} (it has {', '.join(row)}); correct the task or the file.")
    return {name: row[name] for name in columns}
