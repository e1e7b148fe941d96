"""A user's own images in a CSV of paths and labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from logitfusion.clip.data.dataset import PROMPT, DataSet, ImageRow, make_data, split_rows
from logitfusion.clip.data.names import plain_name
from logitfusion.errors import UserError
from logitfusion.formats.csv import read_written_csv
from logitfusion.formats.text import is_passed_on

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
VALIDATION = "of the split 'val', which is neither learnt nor tested"


@dataclass(frozen=True)
class Line:
    """An image of a list.

    Attributes:
        path: as it is written.
        label: of the class, as it is written; empty in a list without labels.
        split: ``train``, ``val`` or ``test``, or None in a list without splits.
        number: from 1.
    """

    path: str
    label: str
    split: str | None
    number: int


def read_list(entry: dict[str, Any]) -> DataSet:
    """Images listed in a CSV with the columns ``path``, ``label`` (a class's name) and perhaps ``split``.

    Images of the split ``val`` are left out. Keys: ``path``; ``test_share`` and ``seed`` if there is no column
    ``split``; optional ``root`` (else the CSV's folder), which relative paths start from; optional ``prompts``.
    """
    path, root = Path(entry["path"]), Path(entry.get("root") or find_root(Path(entry["path"])))
    share, seed, prompts = entry.get("test_share"), entry.get("seed"), entry.get("prompts") or [PROMPT]
    name = f"The image list {path}"
    lines = read_lines(path)
    labels = sorted({line.label for line in lines})
    label_of = {one: label for label, one in enumerate(labels)}
    rows = [row_of(line, root, label_of[line.label]) for line in lines]
    left_out = {row.path: VALIDATION for row, line in zip(rows, lines, strict=True) if line.split == "val"}
    if lines[0].split is None:
        train, test, split = split_rows(name, rows, share, seed)
    else:
        train, test = (
            [row for row, line in zip(rows, lines, strict=True) if line.split == part] for part in ("train", "test")
        )
        split = "given"
    return make_data(name, [plain_name(one) for one in labels], prompts, train, test, split, left_out)


def find_root(path: Path) -> Path:
    """Where a list's relative paths start from: its folder, or the current one if a shell passes it on."""
    return Path() if is_passed_on(path) else path.parent


def row_of(line: Line, root: Path, label: int, *, whole: bool = False) -> ImageRow:
    """The image of a line; its id is the path as it is written, or the ``whole`` path."""
    path = root / line.path
    if "\\" in line.path and not path.is_file():
        path = root / PureWindowsPath(line.path).as_posix()
    return ImageRow(str(path) if whole else line.path, str(path), label)


def read_lines(path: Path, *, labelled: bool = True) -> list[Line]:
    """All images of a list; the column ``label`` may be missing unless they are ``labelled``.

    Raises:
        UserError: no such list, a column or a cell that is missing, or a split of another name.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a CSV; a folder with class folders is given as such.")
    columns, rows = read_written_csv(path, "image list")
    for column in ("path", "label") if labelled else ("path",):
        if column not in columns:
            there = f"it names {', '.join(map(repr, columns))}" if columns else "it names none"
            raise UserError(
                f"The image list {path} has no column {column!r}; its first line names the columns, and {there}."
            )
    if not rows:
        raise UserError(f"The image list {path} names no images.")
    return [_line(path, row, number, labelled) for number, row in enumerate(rows, start=1)]


def _line(path: Path, row: dict[str, str], number: int, labelled: bool) -> Line:
    file, label = row["path"].strip(), row.get("label", "").strip()
    if not file or (labelled and not label):
        raise UserError(f"The image list {path}, image {number}, has no path or no label.")
    split = SPLITS.get(row.get("split", "train").strip().lower())
    if split is None:
        raise UserError(
            f"The image list {path}, image {number}: the split is {row['split']!r}, not train, val or test."
        )
    return Line(file, label, split if "split" in row else None, number)
