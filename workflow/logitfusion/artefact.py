"""Files that are written and read again carry a digest of all of their bytes: a bit that flips anywhere is noticed.

The digest is part of the file, so that the two cannot be separated: a writer puts ``UNSEALED`` where the format keeps
text (a key of JSON, the metadata of safetensors and parquet), and ``seal`` puts the SHA-256 of the file there, in which
its own 64 digits count as zeros. A digest says that a file is as it was written, not who wrote it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import TypeAdapter, ValidationError

from logitfusion.config.errors import explain
from logitfusion.errors import UserError
from logitfusion.files import name_output, whole
from logitfusion.formats import jsonl
from logitfusion.formats.json import format_json, read_json

_MARK = b"logitfusion sha256:"
_ZEROS = b"0" * 64
_BLOCK = 2**20  # bytes
UNSEALED = (_MARK + _ZEROS).decode()
DIGEST = "digest"  # the key of JSON, and of the metadata of other formats


def seal(path: str | Path) -> None:
    """Put a file's digest where it has ``UNSEALED``.

    Raises:
        UserError: what it holds looks like a digest itself.
    """
    with Path(path).open("r+b") as file:
        place = _find_place(file)
        if place is None:
            raise ValueError(f"{path} has no place for its digest")
        file.seek(place)
        if file.read(len(_ZEROS)) != _ZEROS:
            raise UserError(f"{Path(path).name} can't be written: a text in it holds {_MARK.decode()!r}; change that.")
        digest = _digest(file, place)
        file.seek(place)
        file.write(digest)


def check_seal(path: str | Path, mend: str | None = None) -> None:
    """Refuse a file that is not, bit for bit, what was written.

    It is read once, at the speed of SHA-256 (0.5 to 1.5 GB/s), without being held in memory.

    Args:
        path: that was sealed.
        mend: what to do about a damaged or missing one; by default what wrote it is to write it again.

    Raises:
        UserError: the file is missing, can't be read, has no digest or is not what its digest is of.
    """
    path = Path(path)
    _refuse_no_file(path, mend)
    mend = mend or f"delete {name_output(path)} and run again"
    try:
        with path.open("rb") as file:
            place = _find_place(file)
            if place is None:
                raise UserError(f"{path} has no digest: it is damaged, or not of this version of logitfusion; {mend}.")
            file.seek(place)
            same = file.read(len(_ZEROS)) == _digest(file, place)
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}).") from None
    if not same:
        raise UserError(f"{path} is damaged (its bytes differ from its digest); {mend}.")


def is_sealed(path: str | Path) -> bool:
    """Whether a small file has a digest, be it right or wrong."""
    return _MARK in Path(path).read_bytes()


def write_artefact(path: str | Path, value: Mapping[str, Any], *, sort_keys: bool = True) -> None:
    """Write an object as readable JSON with its digest."""
    with whole(path) as temporary:
        text = format_json(_with_digest(value), indent=2, sort_keys=sort_keys) + "\n"
        temporary.write_text(text, encoding="utf-8")
        seal(temporary)


def read_artefact(path: str | Path, kind: Any = dict[str, Any], *, mend: str | None = None) -> Any:
    """What ``write_artefact`` wrote.

    Args:
        path: of the file.
        kind: the section, or another type, of what it holds.
        mend: see ``check_seal``.

    Raises:
        UserError: see ``check_seal``; or it holds something else.
    """
    check_seal(path, mend)
    value = read_json(path)
    del value[DIGEST]
    return parse_artefact(path, kind, value)


def parse_artefact(path: str | Path, kind: Any, value: Any) -> Any:
    """A value, or a part of it, as the section or other type that it is.

    Raises:
        UserError: it has another form; names the file and the key.
    """
    try:
        return _adapter(kind).validate_json(json.dumps(value))
    except ValidationError as error:
        found = explain(error, name=lambda key: f"its key {key!r}" if key else "it").rstrip(".")
        raise UserError(f"{path} is not of this version of logitfusion: {found}; write it again.") from None


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, the first of which also has the digest of all; without rows it stands alone."""
    with whole(path) as temporary:
        with temporary.open("w", encoding="utf-8") as file:
            every = iter(rows)
            file.write(format_json(_with_digest(next(every, {}))) + "\n")
            file.writelines(format_json(row) + "\n" for row in every)
        seal(temporary)


def read_rows(path: str | Path, kind: Any = dict[str, Any]) -> list[Any]:
    """What ``write_rows`` wrote.

    Args:
        path: of the file.
        kind: what each row is.

    Raises:
        UserError: see ``read_artefact``.
    """
    check_seal(path)
    rows = [row for _, row in jsonl.read_rows(path)]
    del rows[0][DIGEST]
    return parse_artefact(path, list[kind], rows if rows[0] else rows[1:])


def _with_digest(value: Mapping[str, Any]) -> dict[str, Any]:
    if DIGEST in value:
        raise ValueError(f"the key {DIGEST} is taken by the digest of the file")
    return {DIGEST: UNSEALED, **value}


def _refuse_no_file(path: Path, mend: str | None) -> None:
    """A pipe or a device would be waited for; a file gone from a stage's folder is not made anew alone."""
    if path.is_file():
        return
    found = "is not a file" if path.exists() else "does not exist"
    if mend is None and (folder := name_output(path)) != "it":
        mend = f"delete {folder} and run again"
    raise UserError(f"{path} {found}; {mend}." if mend else f"{path} {found}.")


def _find_place(file: BinaryIO) -> int | None:
    """Where the digits of the digest begin; None where there is no digest."""
    file.seek(0)
    read, kept = 0, b""
    while block := file.read(_BLOCK):
        seen = kept + block
        if (found := seen.find(_MARK)) >= 0:
            return read - len(kept) + found + len(_MARK)
        read, kept = read + len(block), seen[1 - len(_MARK) :]
    return None


def _digest(file: BinaryIO, place: int) -> bytes:
    """The SHA-256, in hex, of what a file holds, with zeros from ``place`` on where the digest is."""
    value = hashlib.sha256()
    file.seek(0)
    for start in range(0, place, _BLOCK):
        value.update(file.read(min(_BLOCK, place - start)))
    value.update(_ZEROS)
    file.seek(place + len(_ZEROS))
    return hashlib.file_digest(file, lambda: value).hexdigest().encode()
