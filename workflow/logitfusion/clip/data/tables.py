"""CSV files, those that users write and our own."""

from __future__ import annotations

import csv
from pathlib import Path

from logitfusion.errors import UserError

SEPARATORS = (",", ";", "\t")


def read_csv(path: str | Path, what: str) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and the rows of a CSV in UTF-8, its first line being the columns; ``what`` is its name in messages.

    Raises:
        UserError: the file is missing or no such CSV, or a line has more or fewer cells than there are columns.
    """
    return _read(Path(path), what, ",", spaces=False)


def read_written_csv(path: str | Path, what: str) -> tuple[list[str], list[dict[str, str]]]:
    """``read_csv`` of a file that people write or spreadsheets export.

    Cells are separated by what separates the columns' names (``,``, ``;`` or a tab); spaces after it don't count, nor
    do capitals in the columns' names.

    Raises:
        UserError: as ``read_csv``, and a column that is there twice.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
    except (OSError, UnicodeDecodeError):
        header = ""  # refused in a sentence below
    separator = max(SEPARATORS, key=header.count)
    columns, rows = _read(path, what, separator, spaces=True)
    if len(set(columns)) < len(columns):
        raise UserError(f"The {what} {path} has a column twice; its columns are {', '.join(map(repr, columns))}.")
    return columns, rows


def _read(path: Path, what: str, separator: str, *, spaces: bool) -> tuple[list[str], list[dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True, delimiter=separator, skipinitialspace=spaces)
            columns = next(lines, [])
            if spaces:
                columns = [column.strip().lower() for column in columns]
            rows = []
            for cells in lines:
                if cells and len(cells) != len(columns):
                    raise UserError(
                        f"The {what} {path}, line {lines.line_num}, has {len(cells)} cells for {len(columns)} columns."
                    )
                if cells:
                    rows.append(dict(zip(columns, cells, strict=True)))
    except FileNotFoundError:
        raise UserError(f"The {what} {path} is not there; correct its path.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"The {what} {path} is not a readable CSV in UTF-8 ({error}).") from None
    return columns, rows
