"""Files that are written and read again carry a digest of all of their bytes: a bit that flips anywhere is noticed.

The digest is part of the file, so that the two cannot be separated: a writer puts ``UNSEALED`` where the format keeps
text (a key of JSON, the metadata of safetensors and parquet), and ``seal`` puts the SHA-256 of the file there, in which
its own 64 digits count as zeros. A digest says that a file is as it was written, not who wrote it.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from logitfusion.config.errors import explain
from logitfusion.errors import UserError
from logitfusion.files import name_output, whole
from logitfusion.formats import jsonl
from logitfusion.formats.json import format_json, read_json

_MARK = b"logitfusion sha256:"
_ZEROS = b"0" * 64
UNSEALED = (_MARK + _ZEROS).decode()
DIGEST = "digest"  # the key of JSON, and of the metadata of other formats


def seal(path: str | Path) -> None:
    """Put a file's digest where it has ``UNSEALED``.

    Raises:
        UserError: what it holds looks like a digest itself.
    """
    with _mapped(Path(path), mmap.ACCESS_WRITE) as content:
        start = content.find(_MARK)
        if start < 0:
            raise ValueError(f"{path} has no place for its digest")
        place = start + len(_MARK)
        if content[place : place + 64] != _ZEROS:
            raise UserError(f"{Path(path).name} can't be written: a text in it holds {_MARK.decode()!r}; change that.")
        content[place : place + 64] = _digest(content, place)


def check_seal(path: str | Path, mend: str | None = None) -> None:
    """Refuse a file that is not, bit for bit, what was written.

    It is read once, at the speed of SHA-256 (0.5 to 1.5 GB/s), without being held in memory.

    Args:
        path: that was sealed.
        mend: what to do about a damaged one; by default what wrote it is to write it again.

    Raises:
        UserError: the file is missing, can't be read, has no digest or is not what its digest is of.
    """
    path = Path(path)
    mend = mend or f"delete {name_output(path)} and run again"
    _refuse_no_file(path)
    try:
        with _mapped(path, mmap.ACCESS_READ) as content:
            place = content.find(_MARK) + len(_MARK)
            sealed = place >= len(_MARK)
            same = sealed and content[place : place + 64] == _digest(content, place)
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}).") from None
    except ValueError:  # what is empty can't be mapped
        sealed = same = False
    if not sealed:
        raise UserError(f"{path} has no digest: it is damaged, or not of this version of logitfusion; {mend}.")
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


def read_artefact(path: str | Path, kind: Any = dict[str, Any]) -> Any:
    """What ``write_artefact`` wrote.

    Args:
        path: of the file.
        kind: the section, or another type, of what it holds.

    Raises:
        UserError: see ``check_seal``; or it holds something else.
    """
    check_seal(path)
    value = read_json(path)
    del value[DIGEST]
    return parse_artefact(path, kind, value)


def parse_artefact(path: str | Path, kind: Any, value: Any) -> Any:
    """A value, or a part of it, as the section or other type that it is.

    Raises:
        UserError: it has another form; names the file and the key.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value))
    except ValidationError as error:
        found = explain(error, name=lambda key: f"its key {key!r}" if key else "it").rstrip(".")
        raise UserError(f"{path} is not of this version of logitfusion: {found}; write it again.") from None


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, after one with the digest of all: a file that lost its rows is not one of none."""
    with whole(path) as temporary:
        with temporary.open("w", encoding="utf-8") as file:
            for row in chain([{DIGEST: UNSEALED}], rows):
                file.write(format_json(row) + "\n")
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
    _, *rows = (row for _, row in jsonl.read_rows(path))
    return parse_artefact(path, list[kind], rows)


def _with_digest(value: Mapping[str, Any]) -> dict[str, Any]:
    if DIGEST in value:
        raise ValueError(f"the key {DIGEST} is taken by the digest of the file")
    return {DIGEST: UNSEALED, **value}


def _refuse_no_file(path: Path) -> None:
    """A pipe or a device would be waited for."""
    if not path.is_file():
        raise UserError(f"{path} is not a file." if path.exists() else f"{path} does not exist.")


@contextmanager
def _mapped(path: Path, access: int) -> Iterator[mmap.mmap]:
    mode = "r+b" if access == mmap.ACCESS_WRITE else "rb"
    with path.open(mode) as file, mmap.mmap(file.fileno(), 0, access=access) as content:
        yield content


def _digest(content: mmap.mmap, place: int) -> bytes:
    """The SHA-256, in hex, of what is there, with zeros from ``place`` on where the digest is."""
    with memoryview(content) as view:
        value = hashlib.sha256(view[:place])
        value.update(_ZEROS)
        value.update(view[place + 64 :])
    return value.hexdigest().encode()
