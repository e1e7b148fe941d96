"""A user's own images in a CSV of paths and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from logitfusion.clip.data.dataset import PROMPT, DataSet, ImageRow, make_data, split_rows
from logitfusion.clip.data.folders import plain_name
from logitfusion.clip.data.tables import read_csv
from logitfusion.errors import UserError

SPLITS = ("train", "test")


def read_list(entry: dict[str, Any]) -> DataSet:
    """Images listed in a CSV with the columns ``path``, ``label`` (a class's name) and perhaps ``split``.

    Keys: ``path``; ``test_share`` and ``seed`` if there is no column ``split`` (``train`` or ``test``); optional
    ``root`` (else the CSV's folder), which relative paths start from; optional ``prompts``.
    """
    path, root = Path(entry["path"]), Path(entry.get("root") or Path(entry["path"]).parent)
    share, seed, prompts = entry.get("test_share"), entry.get("seed"), entry.get("prompts") or [PROMPT]
    name = f"The image list {path}"
    listed = _read_listed(path)
    classes = sorted({line["label"] for line in listed})
    label_of = {one: label for label, one in enumerate(classes)}
    rows = [ImageRow(line["path"], str(root / line["path"]), label_of[line["label"]]) for line in listed]
    if "split" in listed[0]:
        train, test = (
            [row for row, line in zip(rows, listed, strict=True) if line["split"] == part] for part in SPLITS
        )
        split = "given"
    else:
        train, test, split = split_rows(name, rows, share, seed)
    return make_data(name, [plain_name(one) for one in classes], prompts, train, test, split)


def _read_listed(path: Path) -> list[dict[str, str]]:
    columns, lines = read_csv(path, "image list")
    missing = {"path", "label"} - set(columns)
    if missing:
        raise UserError(
            f"The image list {path} has no column {sorted(missing)[0]!r}; its first line names the columns."
        )
    if not lines:
        raise UserError(f"The image list {path} names no images.")
    for number, line in enumerate(lines, start=1):
        if not line["path"] or not line["label"]:
            raise UserError(f"The image list {path}, image {number}, has no path or no label.")
        if "split" in columns and line["split"] not in SPLITS:
            raise UserError(
                f"The image list {path}, image {number}: the split is {line['split']!r}, not train or test."
            )
    return lines
