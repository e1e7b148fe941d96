"""Where a path leads: to a file, which is replaced as a whole, or to what can only be written into."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO, NamedTuple


class Place(NamedTuple):
    """Where something is to be written."""

    path: Path
    """Of the file or folder itself, links followed; of what is written into, the path as it is given."""
    stream: bool
    """A pipe, a character device or an open file of a process, which is written into and never replaced."""


def as_word(path: str | Path) -> str:
    """A path within a sentence: as it is, unless it has line breaks or the like."""
    return str(path) if str(path).isprintable() else repr(str(path))


def find_place(path: Path) -> Place:
    """Where writing to a path leads, whether anything is there or not.

    Raises:
        OSError: links in a circle, a file in the place of a folder, or a name that is too long.
        ValueError: a name with a NUL.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:  # nothing there, or a link that leads to nothing yet
        return Place(Path(os.path.realpath(path)), stream=False)
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or _find_descriptor(path):
        return Place(path, stream=True)
    return Place(Path(os.path.realpath(path)), stream=False)


def open_stream(path: Path) -> BinaryIO:
    """Open what is written into and never replaced.

    Raises:
        OSError: it can't be written.
    """
    found = _find_descriptor(path)
    if found is not None and found.parent.resolve() in (Path(f"/proc/{os.getpid()}/fd"), Path("/dev/fd")):
        return open(os.dup(int(found.name)), "wb")  # noqa: PTH123 (where this process is at in it)
    return path.open("ab")


def _find_descriptor(path: Path) -> Path | None:
    """The name of the file that a process has open and that links lead to, as of ``/dev/stdout``."""
    while path.is_symlink():
        if Path("/proc") in path.parent.resolve().parents:
            return path
        path = path.parent / path.readlink()
    return path if path.parent.resolve() == Path("/dev/fd") else None
