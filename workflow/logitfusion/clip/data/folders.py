"""A user's own images in one folder a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from logitfusion.clip.data.dataset import PROMPT, DataSet, ImageRow, make_data, split_rows
from logitfusion.errors import UserError
from logitfusion.files import read_json

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"})


def read_folder(entry: dict[str, Any]) -> DataSet:
    """Images in one folder a class, nested folders included.

    Keys: ``path``; either ``test_path``, a second such folder, or ``test_share`` and ``seed`` (share 1: only a test
    set); optional ``class_names``, a mapping (or a JSON file of one) from folders to the names in prompts, whose order
    is the labels' order (else folder names, sorted, with spaces for underscores); optional ``prompts``.
    """
    path, test_path, named = Path(entry["path"]), entry.get("test_path"), entry.get("class_names")
    share, seed, prompts = entry.get("test_share"), entry.get("seed"), entry.get("prompts") or [PROMPT]
    name = f"The image folder {path}"
    classes = _read_class_names(named) or {folder: plain_name(folder) for folder in class_folders(path)}
    rows = list_images(path, list(classes))
    if test_path:
        train, split = rows, "given"
        # Both folders may hold equal names: the folder is part of a test image's id.
        test = list_images(Path(test_path), list(classes), prefix="test/")
    else:
        train, test, split = split_rows(name, rows, share, seed)
    return make_data(name, list(classes.values()), prompts, train, test, split)


def _read_class_names(given: dict[str, str] | str | None) -> dict[str, str] | None:
    return read_json(given) if isinstance(given, str) else given


def plain_name(name: str) -> str:
    """The name of a folder, or a label, as it goes into a prompt."""
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
