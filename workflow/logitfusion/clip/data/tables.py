"""CSV files that users write."""

from __future__ import annotations

import csv
from pathlib import Path

from logitfusion.errors import UserError


def read_csv(path: str | Path, what: str) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and the rows of a CSV in UTF-8, its first line being the columns; ``what`` is its name in messages.

    Raises:
        UserError: the file is missing or no such CSV, or a line has more or fewer cells than there are columns.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            columns = next(lines, [])
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
