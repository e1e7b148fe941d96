"""A user's own images: a folder of class folders, or a CSV of paths and labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from logitfusion.clip.data.dataset import PROMPT, DataSet, ImageRow, make_data, split_rows
from logitfusion.clip.data.tables import read_table
from logitfusion.errors import UserError
from logitfusion.files import read_json

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"})


def read_folder(entry: dict[str, Any]) -> DataSet:
    """Images in one folder a class, nested folders included.

    Keys: ``path``; either ``test_path``, a second such folder, or ``test_share`` and ``seed`` (share 1: only a test
    set); optional ``class_names``, a mapping (or a JSON file of one) from folders to the names in prompts, whose order
    is the labels' order (else folder names, sorted, with spaces for underscores); optional ``prompts``.
    """
    path, name = Path(entry["path"]), f"The image folder {entry['path']}"
    classes = _read_class_names(entry.get("class_names")) or {folder: _plain(folder) for folder in class_folders(path)}
    rows = list_images(path, list(classes))
    if entry.get("test_path"):
        train, split = rows, "given"
        # Both folders may hold equal names: the folder is part of a test image's id.
        test = list_images(Path(entry["test_path"]), list(classes), prefix="test/")
    else:
        train, test, split = split_rows(name, rows, entry)
    return make_data(name, list(classes.values()), entry.get("prompts") or [PROMPT], train, test, split)


def _read_class_names(given: dict[str, str] | str | None) -> dict[str, str] | None:
    return read_json(given) if isinstance(given, str) else given


def _plain(name: str) -> str:
    """A folder's name as it goes into a prompt."""
    return name.replace("_", " ").strip()


def class_folders(path: Path) -> list[str]:
    """The names of a folder's folders, sorted.

    Raises:
        UserError: no such folder, or nothing in it.
    """
    if not path.is_dir():
        raise UserError(f"The image folder {path} is not there; correct the data set's path.")
    folders = sorted(one.name for one in path.iterdir() if one.is_dir() and not one.name.startswith("."))
    if not folders:
        raise UserError(f"The image folder {path} has no folders in it; it needs one for each class.")
    return folders


def list_images(path: Path, folders: Sequence[str], prefix: str = "") -> list[ImageRow]:
    """A row for each image file in the folders, which are the classes; ids are paths below ``path``.

    Raises:
        UserError: a folder that is not a class, or a class without images.
    """
    unknown = sorted(set(class_folders(path)) - set(folders))
    if unknown:
        raise UserError(f"The image folder {path} has a folder {unknown[0]!r}, which is none of the classes.")
    rows = []
    for label, folder in enumerate(folders):
        files = find_images(path / folder)
        if not files:
            raise UserError(f"The image folder {path / folder} has no images in it; add some or remove the class.")
        rows += [ImageRow(prefix + file.relative_to(path).as_posix(), str(file), label) for file in files]
    return rows


def find_images(folder: Path) -> list[Path]:
    """All image files in a folder, nested ones too, sorted; nothing hidden (thumbnails, macOS' ``._`` files)."""
    files = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    return sorted(file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts))


def read_csv(entry: dict[str, Any]) -> DataSet:
    """Images listed in a CSV with the columns ``path``, ``label`` (a class's name) and perhaps ``split``.

    Keys: ``path``; ``test_share`` and ``seed`` if there is no column ``split`` (``train`` or ``test``); optional
    ``root`` (else the CSV's folder), which relative paths start from; optional ``prompts``.
    """
    path, name = Path(entry["path"]), f"The image list {entry['path']}"
    listed = _read_listed(path)
    classes = sorted({line["label"] for line in listed})
    label_of = {one: label for label, one in enumerate(classes)}
    root = Path(entry["root"]) if entry.get("root") else path.parent
    rows = [ImageRow(line["path"], str(root / line["path"]), label_of[line["label"]]) for line in listed]
    if "split" in listed[0]:
        train, test = (
            [row for row, line in zip(rows, listed, strict=True) if line["split"] == part] for part in SPLITS
        )
        split = "given"
    else:
        train, test, split = split_rows(name, rows, entry)
    return make_data(name, [_plain(one) for one in classes], entry.get("prompts") or [PROMPT], train, test, split)


SPLITS = ("train", "test")


def _read_listed(path: Path) -> list[dict[str, str]]:
    columns, lines = read_table(path, "image list")
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
