"""Locks on files, which end with their process, however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from logitfusion.errors import UserError
from logitfusion.files.places import find_place


def try_lock(file: int) -> bool | None:
    """Lock an open file; False where another process has, None on a file system without locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def is_open_at(path: Path, file: int) -> bool:
    """Whether an open file is still what a path names."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), path.stat())
    return False


@contextmanager
def only_process(path: Path, otherwise: str) -> Iterator[None]:
    """Let no two processes into the block at once; the file ``path`` is there meanwhile.

    Args:
        otherwise: the sentence where another process is in it.

    Raises:
        UserError: that sentence.
    """
    path = find_place(path).path  # of a link to nothing, that is made
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if try_lock(file) is False:
            os.close(file)
            raise UserError(otherwise)
        if is_open_at(path, file):
            break
        os.close(file)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)
