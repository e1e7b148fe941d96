"""A user's own images in one folder a class."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from logitfusion.clip.data.dataset import PROMPT, DataSet, ImageRow, make_data, split_rows
from logitfusion.clip.data.found import LOOSE, SYSTEM_FOLDERS, below, find_images, left_out_lines
from logitfusion.clip.data.names import match_names, plain_name, read_names
from logitfusion.config.section import FOLDER
from logitfusion.errors import UserError

LEARNT = frozenset({"train", "training"})
TESTED = frozenset({"val", "valid", "validation", "dev", "test", "testing"})


def read_folder(entry: dict[str, Any]) -> DataSet:
    """Images in one folder a class, nested folders included.

    Keys: ``path``; either ``test_path``, a second such folder, or ``test_share`` and ``seed`` (share 1: only a test
    set); optional ``class_names``, a mapping (or a JSON file of one) from folders to the names in prompts, whose order
    is the labels' order (else folder names, sorted, with spaces for underscores); optional ``prompts``.
    """
    path, test_path, named = Path(entry["path"]), entry.get("test_path"), entry.get("class_names")
    share, seed, prompts = entry.get("test_share"), entry.get("seed"), entry.get("prompts") or [PROMPT]
    name = f"The image folder {path}"
    classes = name_classes(path, read_names(named) if isinstance(named, str) else named)
    rows, left_out = list_images(path, list(classes))
    if test_path:
        train, split = rows, "given"
        # Both folders may hold equal names: the folder is part of a test image's id.
        test, others = list_images(Path(test_path), list(classes), prefix="test/")
        left_out |= others
    else:
        train, test, split = split_rows(name, rows, share, seed)
    return make_data(name, list(classes.values()), prompts, train, test, split, left_out)


def name_classes(path: Path, names: Mapping[str, str] | None = None) -> dict[str, str]:
    """Class folder -> its name in prompts, in the order of the labels.

    Raises:
        UserError: no such folders, folders that are splits, or other folders than ``names`` has.
    """
    folders = class_folders(path)
    if names is not None:
        if odd := [name for name in names if not re.search(FOLDER, name)]:
            raise UserError(f"The class names of {path} have the folder {odd[0]!r}, which is not in it; correct it.")
        return dict(names)
    refuse_splits(path, folders)
    return {folder: plain_name(folder) for folder in folders}


def refuse_splits(path: Path, folders: Sequence[str]) -> None:
    """Refuse folders ``train`` and ``val``, say, which would be learnt as classes.

    Raises:
        UserError: says which to give instead.
    """
    learnt = next((folder for folder in folders if folder.lower() in LEARNT), None)
    tested = next((folder for folder in folders if folder.lower() in TESTED), None)
    if learnt and tested:
        raise UserError(
            f"The folders of {path} are splits, not classes: {', '.join(folders)}. To learn, give {path / learnt};"
            f" to test or to score, give {path / tested}."
        )


def class_folders(path: Path) -> list[str]:
    """The names of a folder's folders, sorted; hidden ones, and those of NAS and macOS, are none.

    Raises:
        UserError: no such folder, or nothing in it.
    """
    if not path.is_dir():
        raise UserError(f"The image folder {path} is not there; correct the data set's path.")
    names = sorted(one.name for one in path.iterdir() if one.is_dir() and not one.name.startswith("."))
    folders = [name for name in names if name.lower() not in SYSTEM_FOLDERS]
    if not folders:
        raise UserError(f"The image folder {path} has no folders in it; it needs one for each class.")
    return folders


def list_images(path: Path, folders: Sequence[str], prefix: str = "") -> tuple[list[ImageRow], dict[str, str]]:
    """A row for each image file in the folders, which are the classes, and the files that are left out -> why.

    Ids are paths below ``path``. A folder on the disk is the class that has its name, or else the one that CLIP reads
    as the same text.

    Raises:
        UserError: a folder that is not a class, or a class without images.
    """
    label_of = match_folders(path, folders)
    found = find_images(path)
    left_out = dict(found.left_out)
    rows: list[list[ImageRow]] = [[] for _ in folders]
    for file in found.images:
        place = file.relative_to(path)
        if len(place.parts) == 1:
            left_out[str(file)] = LOOSE
        else:
            label = label_of[place.parts[0]]
            rows[label].append(ImageRow(prefix + place.as_posix(), str(file), label))
    for label, folder in enumerate(folders):
        if not rows[label]:
            there = " ".join(left_out_lines(below(left_out, path / folder)))
            raise UserError(
                f"The image folder {path / folder} has no images in it; add some or remove the class."
                + (f" {there}." if there else "")
            )
    return [row for some in rows for row in some], left_out


def match_folders(path: Path, folders: Sequence[str]) -> dict[str, int]:
    """Folder on the disk -> its place in ``folders``.

    Raises:
        UserError: one that is none of them.
    """
    matched = match_names(class_folders(path), folders)
    for folder, label in matched.items():
        if label is None:
            raise UserError(f"The image folder {path} has a folder {folder!r}, which is none of the classes.")
    return matched
