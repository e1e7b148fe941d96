"""Full and unwritable disks, and what else a system refuses, in words."""

from __future__ import annotations

import errno
import os

from logitfusion.errors import find_memory_error
from logitfusion.files.partials import PARTIAL
from logitfusion.files.places import as_word

_DISK_ERRORS = {
    errno.ENOSPC: "no space left on the disk, free some and run again",
    errno.EDQUOT: "the disk quota is used up, free some and run again",
    errno.EFBIG: "the file is larger than the disk or a limit lets files be",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted",
    errno.EIO: "the disk reports an input/output error",
    errno.ENAMETOOLONG: "a name is too long",
}
# Rust and C++ writers (safetensors, arrow) pass the system's words on without its number; torch.save drops those too.
_FULL = ("No space left on device", "StorageFull", "iostream error", "PytorchStreamWriter failed writing")
_WORDS = {**dict.fromkeys(_FULL, errno.ENOSPC), "(os error 13)": errno.EACCES, "(os error 30)": errno.EROFS}


def find_disk_error(error: BaseException | None) -> str | None:
    """The words for a full or unwritable disk anywhere in a chain of exceptions, with the file if known; else None."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            return describe(error) + _where(error)
        for words, number in _WORDS.items():
            if words in str(error):
                return _DISK_ERRORS[number]
        error = error.__cause__ or error.__context__
    return None


def describe(error: OSError) -> str:
    """What the system refused, without where."""
    return _DISK_ERRORS.get(error.errno) or (error.strerror or str(error)).lower()


def _where(error: OSError) -> str:
    """The file, which need not be the one that is written: an input may be refused, too."""
    name = error.filename if isinstance(error.filename, str) else ""
    return f" ({as_word(name)})" if name and f"{os.sep}{PARTIAL}" not in name else ""


def is_used_up(error: BaseException) -> bool:
    """Whether an exception is about a full disk or memory: of the machine, whatever it was doing."""
    return find_disk_error(error) is not None or find_memory_error(error) is not None
