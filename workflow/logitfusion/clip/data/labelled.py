"""Images of known classes in folders or in a list, not split: what a head is fitted to, or is scored on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from logitfusion.clip.data.dataset import ImageRow, check_classes, check_images
from logitfusion.clip.data.folders import class_folders, list_images, name_classes
from logitfusion.clip.data.found import LOOSE, find_images, left_out_lines
from logitfusion.clip.data.lists import Line, find_root, read_lines, row_of
from logitfusion.clip.data.names import match_names, plain_name
from logitfusion.errors import UserError


@dataclass(frozen=True)
class Labelled:
    """Images and their classes.

    Attributes:
        folders: what the data calls each class: its folder, or its label in a list; none of unlabelled images.
        classes: the names, as they go into a prompt, in the same order.
        rows: the images; labels are places in ``classes``.
        left_out: files that are there and not used -> why not.
    """

    folders: list[str]
    classes: list[str]
    rows: list[ImageRow]
    left_out: dict[str, str]


# To learn from


def read_labelled_folder(path: Path, names: Mapping[str, str] | None = None) -> Labelled:
    """All images of a folder of class folders; ``names`` as ``class_names`` in ``folders.read_folder``.

    Raises:
        UserError: no such folders, classes that prompts can't tell apart, or a class without images.
    """
    found = name_classes(path, names)
    rows, left_out = list_images(path, list(found))
    check_classes(f"The image folder {path}", list(found.values()), rows)
    return Labelled(list(found), list(found.values()), rows, left_out)


def read_labelled_list(path: Path, names: Mapping[str, str] | None = None) -> Labelled:
    """The images to learn from of a CSV as ``lists.read_list`` reads it: all, or those of the split ``train``.

    Raises:
        UserError: no such list, no such images in it, classes that prompts can't tell apart, or other labels than
            ``names`` has.
    """
    lines, left_out = _of_split(path, read_lines(path), "train")
    name = f"The image list {path}"
    labels = sorted({line.label for line in lines}) if names is None else list(names)
    odd = sorted({line.label for line in lines} ^ set(labels))
    if odd:
        raise UserError(f"{name} and the class names don't have the same labels; only one has {odd[0]!r}.")
    rows = [row_of(line, find_root(path), labels.index(line.label)) for line in lines]
    classes = [plain_name(label) for label in labels] if names is None else [names[label] for label in labels]
    check_images(name, rows)
    check_classes(name, classes, rows)
    return Labelled(labels, classes, rows, left_out)


# To be scored


def score_folder(path: Path, classes: Sequence[str], folders: Sequence[str] = ()) -> Labelled:
    """The images of class folders that go by the names of a head's classes, or by the folders that it learnt from.

    Capitals, spaces and how accents are encoded don't matter. Images in no class folder are left out.

    Raises:
        UserError: a folder of images that is no class, or nothing to score.
    """
    if path.is_file():
        raise UserError(f"{path} is a file; to be scored, give folders with a folder for each class.")
    label_of = _match_classes(class_folders(path), classes, folders)
    found = find_images(path)
    rows, left_out = [], dict(found.left_out)
    for file in found.images:
        folder, *inside = file.relative_to(path).parts
        if not inside:
            left_out[str(file)] = LOOSE
        elif (label := label_of[folder]) is None:
            raise UserError(f"{path / folder} is no class of this head; they are {_some(classes)}.")
        else:
            rows.append(ImageRow(str(file), str(file), label))
    if not rows:
        raise UserError(f"The class folders in {path} have no images in them.")
    return Labelled(list(folders or classes), list(classes), rows, left_out)


def score_list(path: Path, classes: Sequence[str], labels: Sequence[str] = ()) -> Labelled:
    """The images to test on of a CSV: all, or those of the split ``test``; ``labels`` are those of the head's own list.

    Raises:
        UserError: no such list, a label that is no class, or nothing to score.
    """
    lines, left_out = _of_split(path, read_lines(path), "test")
    label_of = _match_classes({line.label for line in lines}, classes, labels)
    unknown = [line for line in lines if label_of[line.label] is None]
    if unknown:
        raise UserError(
            f"The image list {path}, image {unknown[0].number}: {unknown[0].label!r} is no class of this head; they"
            f" are {_some(classes)}."
        )
    rows = [row_of(line, find_root(path), label_of[line.label], whole=True) for line in lines]
    check_images(f"The image list {path}", rows)
    return Labelled(list(labels or classes), list(classes), rows, left_out)


def _match_classes(names: Iterable[str], classes: Sequence[str], folders: Sequence[str]) -> dict[str, int | None]:
    """What the images are filed under -> label, or None.

    Where all are folders that the head learnt from, they mean those, even if a class has the name of another's folder.
    """
    own = match_names(names, folders)
    if None not in own.values():
        return own
    return {name: own[name] if label is None else label for name, label in match_names(own, classes).items()}


# To be answered without a score; every label is 0


def find_unlabelled(path: Path) -> Labelled:
    """An image file itself, whatever its ending, or all images in a folder.

    Raises:
        UserError: neither is there, or the folder has no images.
    """
    if path.is_file():
        return Labelled([], [], [_plain_row(path)], {})
    if not path.is_dir():
        raise UserError(f"There is no image or folder {path}.")
    found = find_images(path)
    if not found.images:
        there = " ".join(left_out_lines(found.left_out))
        raise UserError(f"The folder {path} has no images in it.{there and f' {there}.'}")
    return Labelled([], [], [_plain_row(file) for file in found.images], found.left_out)


def list_unlabelled(path: Path) -> Labelled:
    """All images of a CSV with the column ``path``, each once.

    Raises:
        UserError: no such list.
    """
    rows = [row_of(line, find_root(path), 0, whole=True) for line in read_lines(path, labelled=False)]
    return join_labelled([Labelled([], [], rows, {})])


def join_labelled(parts: Sequence[Labelled]) -> Labelled:
    """Images of the same classes as one, in this order, each once, under whatever spelling of its path.

    Raises:
        UserError: one that has two labels, or a line break in its name.
    """
    rows: dict[str, ImageRow] = {}
    for row in (row for part in parts for row in part.rows):
        first = rows.setdefault(os.path.abspath(row.path), row)  # noqa: PTH100 (resolving links would ask the disk)
        if first.label != row.label:
            raise UserError(f"The image {row.path} is given with two labels.")
    check_images("What is given", rows.values())
    left_out: dict[str, tuple[str, str]] = {}
    for path, why in (one for part in parts for one in part.left_out.items()):
        if (place := os.path.abspath(path)) not in rows:  # noqa: PTH100
            left_out.setdefault(place, (path, why))
    return Labelled(parts[0].folders, parts[0].classes, list(rows.values()), dict(left_out.values()))


def _plain_row(file: Path) -> ImageRow:
    return ImageRow(str(file), str(file), 0)


def _of_split(path: Path, lines: list[Line], wanted: str) -> tuple[list[Line], dict[str, str]]:
    """The lines of a split, or all where there is none; and the others as files that are not used."""
    kept = [line for line in lines if line.split in (None, wanted)]
    if not kept:
        raise UserError(f"The image list {path} has no image of the split {wanted!r}, which is what this reads.")
    left_out = {
        str(find_root(path) / line.path): f"of the split {line.split!r}, not {wanted!r}"
        for line in lines
        if line.split not in (None, wanted)
    }
    return kept, left_out


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 10 else f"{', '.join(names[:10])} and {len(names) - 10} more"
