"""Where a file grows until it is whole: a folder beside its place, locked by the process that writes into it.

A lock ends with its process, however that ends: what nobody holds is of a process that was killed, and is removed.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NODE = platform.node()
_NAME = re.compile(r"\.partial-(?P<node>.*)-[a-z0-9_]{8}")  # as tempfile ends them
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
        _clear(partial)
        os.close(lock)


def _make(folder: Path) -> tuple[Path, int]:
    """A new folder, and the open file that holds its lock."""
    while True:
        partial = Path(tempfile.mkdtemp(prefix=f".partial-{_NODE}-", dir=folder))
        with suppress(FileNotFoundError):  # another process took it for an abandoned one before it was locked
            lock = os.open(partial / _OWNER, os.O_RDWR | os.O_CREAT, 0o600)
            if _lock(lock) is not False and _is_there(partial, lock):
                return partial, lock
            os.close(lock)


def _is_there(partial: Path, lock: int) -> bool:
    """Whether what was locked is still in its place."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(lock), (partial / _OWNER).stat())
    return False


def _lock(file: int) -> bool | None:
    """Lock an open file; False where another process has, None on a file system without locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove_abandoned(folder: Path) -> None:
    """Remove what processes left that are gone, as far as this may be removed."""
    with suppress(OSError):  # a folder that can't be listed may still be written
        for entry in list(os.scandir(folder)):
            found = _NAME.fullmatch(entry.name)
            if found and entry.is_dir(follow_symlinks=False):
                _remove_if_abandoned(Path(entry.path), found["node"])


def _remove_if_abandoned(partial: Path, node: str) -> None:
    """Remove what nobody holds; locks of another machine are not seen here on some shared disks, but its writing is."""
    try:
        lock = os.open(partial / _OWNER, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:  # not locked yet, or somebody is at removing it: then it is empty
        with suppress(OSError):
            partial.rmdir()
        return
    except OSError:  # of another user
        return
    try:
        if _lock(lock) and (node == _NODE or _age(partial) > _LONG):
            _clear(partial)
    finally:
        os.close(lock)


def _age(partial: Path) -> float:
    """Seconds since anything in it was written."""
    return time.time() - max((path.lstat().st_mtime for path in partial.rglob("*")), default=0)


def _clear(partial: Path) -> None:
    """Remove it, the locked file last; a broken disk may refuse this too, but its first error is the one to tell."""
    with suppress(OSError):
        for path in list(partial.iterdir()):
            if path.name != _OWNER:
                remove(path)
        remove(partial / _OWNER)
        partial.rmdir()
