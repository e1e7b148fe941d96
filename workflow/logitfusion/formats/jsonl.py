"""JSON lines: one value a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from logitfusion.formats.json import parse_json
from logitfusion.formats.text import read_lines


def read_rows(path: str | Path, *, title: str | None = None) -> Iterator[tuple[int, Any]]:
    """The values of a file with the numbers of their lines, from 1; blank lines hold none.

    Raises:
        UserError: as ``read_lines``, and a line that is something else, by its number.
    """
    title = title or str(path)
    return parse_rows(read_lines(path, title=title), title)


def parse_rows(lines: Iterable[tuple[int, str]], title: str) -> Iterator[tuple[int, Any]]:
    """``read_rows`` of numbered lines."""
    for number, line in lines:
        if line.strip():
            yield number, parse_json(line, f"{title}, line {number},", line=True)
