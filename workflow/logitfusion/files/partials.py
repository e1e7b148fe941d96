"""Where a file grows until it is whole: a folder beside its place, locked by the process that writes into it.

A lock ends with its process, however that ends: what nobody holds is of a process that was killed, and is removed.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from logitfusion.files.locks import is_open_at, try_lock

PARTIAL = ".partial-"
_NODE = platform.node()
_NAME = re.compile(re.escape(PARTIAL) + r"(?P<node>.*)-[a-z0-9_]{8}")  # as tempfile ends them
_OWNER = ".owner"  # the locked file
_LONG = 24 * 60 * 60  # seconds in which a living process on another machine has written something


def remove(path: Path) -> None:
    """Remove a file or a folder, whichever it is, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def hold_partial(folder: Path) -> Iterator[Path]:
    """Yield a new folder within ``folder``, of this process alone, which is removed with the block's end.

    Those that killed processes left in ``folder`` are removed before.

    Raises:
        OSError: nothing can be made in ``folder``.
    """
    _remove_abandoned(folder)
    partial, lock = _make(folder)
    try:
        yield partial
    finally:
        _clear(partial, lock)


def _make(folder: Path) -> tuple[Path, int]:
    """A new folder, and the open file that holds its lock."""
    while True:
        partial = Path(tempfile.mkdtemp(prefix=f"{PARTIAL}{_NODE}-", dir=folder))
        try:
            lock = os.open(partial / _OWNER, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:  # another process took it for an abandoned one before it was locked
            continue
        except OSError:
            with suppress(OSError):
                partial.rmdir()
            raise
        if try_lock(lock) is not False and is_open_at(partial / _OWNER, lock):
            return partial, lock
        os.close(lock)


def _remove_abandoned(folder: Path) -> None:
    """Remove what processes left that are gone, as far as this may be removed."""
    with suppress(OSError):  # a folder that can't be listed may still be written
        for entry in list(os.scandir(folder)):
            found = _NAME.fullmatch(entry.name)
            if found and entry.is_dir(follow_symlinks=False):
                _remove_if_abandoned(Path(entry.path), found["node"])


def _remove_if_abandoned(partial: Path, node: str) -> None:
    try:
        lock = os.open(partial / _OWNER, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:  # not locked yet, or somebody is at removing it: then it is empty
        with suppress(OSError):
            partial.rmdir()
        return
    except OSError:  # of another user
        return
    if _is_abandoned(partial, lock, node):
        _clear(partial, lock)
    else:
        os.close(lock)


def _is_abandoned(partial: Path, lock: int, node: str) -> bool:
    """Whether nobody holds it; on some shared disks that is not seen from another machine, but its writing is."""
    locked = try_lock(lock)
    if locked is not None and (not locked or node == _NODE):
        return locked
    with suppress(OSError):  # somebody is at it
        return max(path.lstat().st_mtime for path in (partial, *partial.rglob("*"))) < time.time() - _LONG
    return False


def _clear(partial: Path, lock: int) -> None:
    """Remove it, the locked file last; a broken disk may refuse this too, but its first error is the one to tell."""
    with suppress(OSError):
        for path in list(partial.iterdir()):
            if path.name != _OWNER:
                remove(path)
        remove(partial / _OWNER)
    os.close(lock)
    with suppress(OSError):  # on NFS, a file that is open is not gone before it is closed
        partial.rmdir()
