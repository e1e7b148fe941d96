"""Files that are whole or absent: everything is written beside its name and renamed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from logitfusion.errors import UserError
from logitfusion.files.disk import find_disk_error


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


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as readable JSON with sorted keys."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    with whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
