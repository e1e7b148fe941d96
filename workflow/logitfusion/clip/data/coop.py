"""CoOp's split files: ``{"train": [[path, label, class], ...], "val": ..., "test": ...}``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from logitfusion.clip.data.dataset import ImageRow
from logitfusion.clip.data.lists import VALIDATION
from logitfusion.errors import UserError
from logitfusion.formats.json import read_json

PARTS = ("train", "val", "test")


def read_coop(path: Path, images: Path) -> tuple[list[str], list[ImageRow], list[ImageRow], dict[str, str]]:
    """The classes' names, the images to learn from and to test on, and the others -> why they are not used.

    Args:
        path: the file.
        images: the folder that its paths start from.

    Raises:
        UserError: no such file, labels that are not 0, 1, 2, ..., a label with two names, an image that is there twice
            under any spelling of its path, or one that is missing.
    """
    listed = _read(path)
    names: dict[int, str] = {}
    seen: dict[str, str] = {}
    rows: dict[str, list[ImageRow]] = {}
    for part in PARTS:
        rows[part] = []
        for place, item in enumerate(listed[part]):
            file, label, name = _check_item(item, f"{path}, {part}[{place}],")
            if names.setdefault(label, name) != name:
                raise UserError(f"{path} gives the label {label} two names, {names[label]!r} and {name!r}; correct it.")
            spelt, here = os.path.normpath(file), f"{file!r} of {part}"
            if Path(file).is_absolute() or Path(spelt).parts[:1] == (os.pardir,):
                raise UserError(f"{path} has the image {here}, which is not below the images' folder; correct it.")
            if spelt in seen:
                raise UserError(f"{path} has an image twice: {seen[spelt]} and {here}; correct it.")
            seen[spelt] = here
            rows[part].append(ImageRow(file, str(images / file), label))
    _check_labels(path, names)
    first = next(iter([*rows["train"], *rows["test"]]), None)
    if first is not None and not Path(first.path).is_file():
        raise UserError(f"{first.path}, the first image of {path}, is not there; correct root or give images.")
    left_out = {row.path: VALIDATION for row in rows["val"]}
    return [names[label] for label in range(len(names))], rows["train"], rows["test"], left_out


def _read(path: Path) -> dict[str, list[Any]]:
    listed = read_json(path, title=f"CoOp's split file {path}")
    if not isinstance(listed, dict) or not all(isinstance(listed.get(part, []), list) for part in PARTS):
        raise UserError(f"{path} is not a split file of CoOp, which is an object of the lists train, val and test.")
    missing = [part for part in ("train", "test") if part not in listed]
    if missing:
        raise UserError(f"{path} is not a split file of CoOp: it has no list {missing[0]!r}.")
    return {part: listed.get(part, []) for part in PARTS}


def _check_item(item: Any, where: str) -> tuple[str, int, str]:
    if not isinstance(item, list) or len(item) != 3 or not isinstance(item[0], str) or not isinstance(item[2], str):
        raise UserError(f"{where} is not an image's path, label and class name, as CoOp's split files have them.")
    file, label, name = item
    # CoOp's own reader cuts 0.5 to 0, and takes true for 1.
    whole = isinstance(label, int) or (isinstance(label, float) and label.is_integer())
    if isinstance(label, bool) or not whole:
        raise UserError(f"{where} has the label {label!r}; a label is a whole number from 0.")
    return file, int(label), name


def _check_labels(path: Path, names: dict[int, str]) -> None:
    missing = sorted(set(range(len(names))) - set(names))
    if missing:
        raise UserError(
            f"{path} has no image of the label {missing[0]}, but has the labels {min(names)} to {max(names)}; labels"
            " are counted from 0 without a gap."
        )
