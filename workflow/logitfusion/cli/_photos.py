"""The images that ``fewshot predict`` is asked about, with the classes that they are filed under, if that counts."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from logitfusion.clip.data.dataset import ImageRow
from logitfusion.clip.data.folders import find_images
from logitfusion.errors import UserError


@dataclass(frozen=True)
class Listed:
    """Images to answer, each file once.

    Attributes:
        rows: the images; the id is the path. Labels mean something only if ``scored``.
        scored: whether the classes of the images are known.
        left_out: path -> why this file is not among ``rows``.
    """

    rows: list[ImageRow]
    scored: bool
    left_out: dict[str, str] = field(default_factory=dict)


def list_photos(arguments: argparse.Namespace, header: Mapping[str, Any]) -> Listed:
    """The images of ``--images``, in this order; with ``--score`` they lie in folders of classes.

    Raises:
        UserError: a folder without images, or, to be scored, something that is in the folder of no class.
    """
    label_of = _labels(header)
    seen: dict[str, Path] = {}  # real path -> the first name given for it
    rows, left_out = [], {}
    for place in arguments.images:
        for file in _files(place, left_out):
            real = os.path.realpath(file)
            if real in seen:
                if file != seen[real]:
                    left_out[str(file)] = f"the same file as {seen[real]}"
                continue
            seen[real] = file
            rows.append(_row(file, _find_label(file, place, label_of) if arguments.score else 0))
    return Listed(rows, arguments.score, left_out)


def _labels(header: Mapping[str, Any]) -> dict[str, int]:
    """Class name, or folder that the class was learnt from -> label."""
    labels = {name: label for label, name in enumerate(header["class_names"])}
    return labels | {folder: label for label, folder in enumerate(header["metadata"].get("folders", []))}


def _files(place: Path, left_out: dict[str, str]) -> Iterator[Path]:
    """A file itself, or all image files in a folder, nested ones too; what isn't one is noted in ``left_out``."""
    if place.is_file():
        yield place
        return
    if not place.is_dir():
        raise UserError(f"There is no image or folder {place}.")
    files = find_images(place)
    if not files:
        raise UserError(f"The folder {place} has no images in it.")
    yield from files


def _find_label(file: Path, place: Path, label_of: Mapping[str, int]) -> int:
    """The class that a file below ``place`` is filed under."""
    if file == place:
        raise UserError(f"{place} is a file; to be scored, give folders with a folder for each class.")
    folder, *inside = file.relative_to(place).parts
    if not inside:
        raise UserError(f"{file} is in no class folder, so it can't be scored; leave --score out.")
    if folder not in label_of:
        raise UserError(f"{place / folder} is no class of this head; they are {_some(list(label_of))}.")
    return label_of[folder]


def _row(file: Path, label: int) -> ImageRow:
    if "\n" in str(file):
        raise UserError(f"The image {str(file)!r} has a line break in its name; rename it.")
    return ImageRow(str(file), str(file), label)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 10 else f"{', '.join(names[:10])} and {len(names) - 10} more"
