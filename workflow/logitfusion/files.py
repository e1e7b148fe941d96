"""Files that are whole or absent: everything is written beside its name and renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from logitfusion.errors import UserError, find_memory_error


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial-{os.getpid()}")


def remove(path: Path) -> None:
    """Remove a file or a folder, whichever it is, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def whole(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path; rename it to ``target`` only if the block succeeds.

    Works for a file and for a folder (the block creates what it yields). A failure leaves ``target`` unchanged.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    target = Path(target)
    temporary = _temporary(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for stale in target.parent.glob(f".{target.name}.partial-*"):
            remove(stale)
        yield temporary
        if not temporary.exists():
            raise FileNotFoundError(f"nothing was written to {temporary}")
        if target.is_dir() and not temporary.is_dir():
            raise UserError(f"{target} is a folder, and a file is to be written; give another name.")
        _give_usual_modes(temporary)
        if temporary.is_dir():
            remove(target)
        temporary.replace(target)
    except UserError:
        _remove_if_possible(temporary)
        raise
    except BaseException as error:
        _remove_if_possible(temporary)
        full = find_disk_error(error)
        if full is not None:
            raise UserError(f"{target} could not be written: {full}; nothing earlier was changed.") from error
        raise


def _give_usual_modes(path: Path) -> None:
    """Let others read what the umask lets them read: safetensors makes files for their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    for file in [path, *path.rglob("*")]:
        if file.is_file() and not file.is_symlink():
            file.chmod(file.stat().st_mode | (0o666 & ~mask))


def _remove_if_possible(path: Path) -> None:
    """A full or broken disk may refuse this too, but the first error is the one to report."""
    with suppress(OSError):
        remove(path)


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


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as readable JSON with sorted keys."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON; a missing or broken file is a ``UserError`` that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); delete it and run again.") from None


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    with whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Read one JSON object a line; a missing or broken file is a ``UserError`` that names it."""
    rows, number = [], 0
    try:
        with Path(path).open(encoding="utf-8") as file:
            for line in file:
                number += 1
                if line.strip():
                    rows.append(json.loads(line))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {number}, is not JSON ({error.msg}); delete the file and run again.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}, after line {number}, is not UTF-8 text; save it as UTF-8 and run again.") from None
    return rows


def name_output(path: str | Path) -> str:
    """What to delete of a broken file to have it made anew: the file, or the whole folder if a stage wrote that."""
    folder = Path(path).parent
    return f"the folder {folder}" if any((folder / name).exists() for name in ("record.json", "stage.json")) else "it"


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
