"""Files that the project wrote, read again; and their digests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from logitfusion.errors import UserError
from logitfusion.formats.json import read_json
from logitfusion.formats.jsonl import read_rows
from logitfusion.formats.text import open_file

__all__ = ["name_output", "read_json", "read_jsonl", "sha256", "stream_jsonl"]


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """All objects of a file with one a line.

    Raises:
        UserError: a file that is missing or broken, or a line that is no object, by its number.
    """
    return list(stream_jsonl(path))


def stream_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """``read_jsonl``, one after the other."""
    return (_check_object(row, f"{path}, line {number},") for number, row in read_rows(path))


def _check_object(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{place} is no JSON object; correct it, or have the file made again.")
    return row


def name_output(path: str | Path) -> str:
    """What to delete of a broken file to have it made anew: the file, or the whole folder if a stage wrote that."""
    folder = Path(path).parent
    return f"the folder {folder}" if any((folder / name).exists() for name in ("record.json", "stage.json")) else "it"


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hex.

    Raises:
        UserError: as ``open_file``.
    """
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
