"""Full and unwritable disks, in words."""

from __future__ import annotations

import errno

from logitfusion.errors import find_memory_error

_DISK_ERRORS = {
    errno.ENOSPC: "no space left on the disk, free some and run again",
    errno.EDQUOT: "the disk quota is used up, free some and run again",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
}
# Rust and C++ writers (safetensors, arrow) pass the system's words on without its number; torch.save drops those too.
_FULL = ("No space left on device", "StorageFull", "iostream error", "PytorchStreamWriter failed writing")
_WORDS = {**dict.fromkeys(_FULL, errno.ENOSPC), "(os error 13)": errno.EACCES, "(os error 30)": errno.EROFS}


def find_disk_error(error: BaseException | None) -> str | None:
    """The words for a full or unwritable disk anywhere in a chain of exceptions, else None."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            return _DISK_ERRORS[error.errno]
        for words, number in _WORDS.items():
            if words in str(error):
                return _DISK_ERRORS[number]
        error = error.__cause__ or error.__context__
    return None


def is_used_up(error: BaseException) -> bool:
    """Whether an exception is about a full disk or memory: of the machine, whatever it was doing."""
    return find_disk_error(error) is not None or find_memory_error(error) is not None
