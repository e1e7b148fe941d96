"""References made whole: links replaced by what they point to, so that a run can be moved to another machine."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from logitfusion.errors import UserError
from logitfusion.files import whole
from logitfusion.integrity import RecordedFile, changed, gone, read_recorded
from logitfusion.progress.pace import Rate


class Link(NamedTuple):
    """A file of a model that lies elsewhere."""

    folder: Path
    """The model's."""
    file: RecordedFile


def find_links(folder: Path) -> list[Link]:
    """The links of a model's folder, or of all models in a run's folder.

    Raises:
        UserError: there is no such folder, or no model in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give that of a run (results/NAME) or of a model in it.")
    models = sorted({path.parent for path in folder.rglob("config.json")})
    if not models:
        raise UserError(f"{folder} holds no model; give the folder of a run (results/NAME) or of a model in it.")
    files = [Link(model, file) for model in models for file in (read_recorded(model) or {}).values()]
    return [link for link in files if (link.folder / link.file.name).is_symlink()]


def materialise(links: list[Link]) -> int:
    """Replace links by verified copies of what they point to.

    One file after another, each at once: whatever happens, a file is a whole copy or still the link.

    Returns:
        the bytes that were copied.

    Raises:
        UserError: a file that is gone or has changed, or a disk that is full.
    """
    total = sum(link.file.size for link in links)
    if links:
        _refuse_full(links[0].folder, total)
    copied, rate = 0, Rate("copying", "MB", max(1, total // 10**6))

    def tell(size: int) -> None:
        nonlocal copied
        before, copied = copied, copied + size
        rate(copied // 10**6 - before // 10**6)

    for link in links:
        path = link.folder / link.file.name
        with whole(path, replace_link=True) as copy:
            if _copy(link, copy, tell) != link.file.sha256:
                raise changed(link.folder, link.file.name, "other bytes")
    return total


def _copy(link: Link, copy: Path, tell: Callable[[int], None]) -> str:
    """Copy a file with its time; the SHA-256 of what was read, in hex."""
    value = hashlib.sha256()
    try:
        source = (link.folder / link.file.name).open("rb", buffering=0)
    except OSError as error:
        raise gone(link.folder, link.file.name, error) from None
    with source, copy.open("wb") as target:
        while block := source.read(2**23):
            value.update(block)
            target.write(block)
            tell(len(block))
        written = os.fstat(source.fileno()).st_mtime_ns
    os.utime(copy, ns=(written, written))  # for Snakemake the file stays as old as it was
    return value.hexdigest()


def _refuse_full(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder} needs {needed / 1e9:.1f} GB, and its disk has {free / 1e9:.1f} GB left; free some and run again"
            " (nothing was changed)."
        )
