"""CSV files, those that users write and our own."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from logitfusion.errors import UserError
from logitfusion.formats.text import read_text, split_lines

SEPARATORS = (",", ";", "\t")


def read_csv(path: str | Path, what: str) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and the rows of a CSV in UTF-8, its first line being the columns; ``what`` is its name in messages.

    Raises:
        UserError: the file is missing or no such CSV, a column is there twice, or a line has more or fewer cells than
            there are columns.
    """
    title = f"The {what} {path}"
    return _parse(read_text(path, title=title), title, ",", spaces=False)


def read_written_csv(path: str | Path, what: str) -> tuple[list[str], list[dict[str, str]]]:
    """``read_csv`` of a file that people write or spreadsheets export.

    Cells are separated by what separates the columns' names (``,``, ``;`` or a tab); spaces after it don't count, nor
    do capitals in the columns' names.
    """
    title = f"The {what} {path}"
    text = read_text(path, title=title)
    separator = max(SEPARATORS, key=split_lines(text)[0].count)
    return _parse(text, title, separator, spaces=True)


def _parse(text: str, title: str, separator: str, *, spaces: bool) -> tuple[list[str], list[dict[str, str]]]:
    if "\0" in text:
        line = len(split_lines(text[: text.index("\0")]))
        raise UserError(f"{title}, line {line}, has a null character; it is no CSV in UTF-8.")
    lines = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator, skipinitialspace=spaces)
    rows = []
    try:
        columns = next(lines, [])
        if spaces:
            columns = [column.strip().lower() for column in columns]
        if len(set(columns)) < len(columns):
            raise UserError(f"{title} has a column twice; its columns are {', '.join(map(repr, columns))}.")
        for cells in lines:
            if cells and len(cells) != len(columns):
                raise UserError(f"{title}, line {lines.line_num}, has {len(cells)} cells for {len(columns)} columns.")
            if cells:
                rows.append(dict(zip(columns, cells, strict=True)))
    except csv.Error as error:
        raise UserError(f"{title}, line {lines.line_num}, is no CSV in UTF-8 ({error}).") from None
    return columns, rows
