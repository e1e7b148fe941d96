"""Whether the files of a folder are still those that its record names.

All of them are hashed when the record is written, and once more when somebody first reads them. From then on a file is
only looked at: one of the same size and the same times is the one that was hashed. One whose times are others, as those
of a copy are, is hashed again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator

from logitfusion.artefact import is_sealed, parse_artefact, read_artefact
from logitfusion.config.section import Measured, Sha256
from logitfusion.errors import UserError
from logitfusion.files import read_json, sha256, write_json
from logitfusion.progress.pace import Rate

logger = logging.getLogger(__name__)

RECORD = "record.json"
# What was found unchanged, and when each file was last written then: of this machine, and made again where it is lost.
SEEN = ".seen.json"
_OURS = {"files", "versions"}  # keys of a record that has lost its digest
_WEIGHTS = ".safetensors"
_LONG = 2**28  # bytes from which on hashing takes long enough to say how far it is


def _stay_inside(name: str) -> str:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError("is outside of the folder")
    return name


class RecordedFile(NamedTuple):
    """A file of a folder, as it was when the folder's record was written."""

    name: Annotated[str, AfterValidator(_stay_inside)]
    """Its path within the folder."""
    size: Measured
    """Bytes."""
    sha256: Sha256
    """In hex."""


def record_files(
    folder: Path, names: Iterable[str] | None = None, title: str = "", digests: Mapping[str, str] | None = None
) -> list[RecordedFile]:
    """Hash files of a folder, links followed, saying how far it is.

    Args:
        folder: where they are.
        names: their paths within it; all files of the folder itself where None.
        title: what is hashed, for the lines of progress; the folder's name where empty.
        digests: of those that were hashed a moment ago.
    """
    if names is None:
        names = [path.name for path in folder.iterdir() if path.is_file() and path.name not in (RECORD, SEEN)]
    paths = {name: folder / name for name in sorted(names)}
    sizes = {name: path.stat().st_size for name, path in paths.items()}
    known = dict(digests or {})
    known |= _hash({name: path for name, path in paths.items() if name not in known}, title or folder.name)
    return [RecordedFile(name, sizes[name], known[name]) for name in paths]


def read_record(folder: str | Path) -> dict[str, Any] | None:
    """What a stage recorded of the folder that it wrote; None where there is no record, or another program's.

    Raises:
        UserError: the record is damaged, or of an earlier version.
    """
    path = Path(folder) / RECORD
    if not path.is_file():
        return None
    if not is_sealed(path) and _OURS.isdisjoint(read_json(path)):
        return None
    mend = f"delete the folder {folder} and run again, or this file alone to use the folder as one of your own"
    return read_artefact(path, mend=mend)


def read_recorded(folder: str | Path) -> dict[str, RecordedFile] | None:
    """The files that a folder's record names; None where there is no record, or one that names none.

    Raises:
        UserError: see ``read_record``.
    """
    files = (read_record(folder) or {}).get("files")
    if files is None:
        return None
    return {file.name: file for file in parse_artefact(Path(folder) / RECORD, list[RecordedFile], files)}


def check_files(folder: str | Path, *, weights: bool = True) -> dict[str, RecordedFile]:
    """Refuse a folder whose files are not those that its record names.

    Only those are read that were never found unchanged, or whose size or times are others than they were then.

    Args:
        folder: with a record; of one without, nothing is known.
        weights: also look at safetensors, not only at the small files.

    Returns:
        the files that were looked at, by name.

    Raises:
        UserError: a file is gone or has other bytes; it is named, with what to do.
    """
    recorded = read_recorded(folder) or {}
    files = {name: file for name, file in recorded.items() if weights or not name.endswith(_WEIGHTS)}
    _check(Path(folder), files)
    return files


def _check(folder: Path, files: Mapping[str, RecordedFile]) -> None:
    seen = _read_seen(folder) if files else {}
    stamps = {file.name: _stamp(folder, file) for file in files.values()}
    unsure = {name: folder / name for name, stamp in stamps.items() if seen.get(name) != stamp}
    if unsure:
        for name, digest in _hash(unsure, f"{folder.name}, whether its files are unchanged").items():
            if digest != files[name].sha256:
                raise changed(folder, name, "other bytes")
        with suppress(OSError, UserError):  # a folder that can't be written is hashed again by the next reader
            write_json(folder / SEEN, seen | {name: stamps[name] for name in unsure})


def refuse_gone(folder: str | Path) -> None:
    """Refuse a folder that lacks a file which its record names, or has one of another size; nothing is read.

    Raises:
        UserError: names the file, and what to do.
    """
    for file in (read_recorded(folder) or {}).values():
        _stamp(Path(folder), file)


def check_file(path: str | Path) -> RecordedFile | None:
    """Refuse a file that is not as the record of its folder says; None of one that is in no record.

    Raises:
        UserError: the file is gone or has other bytes, or the record is damaged.
    """
    path = Path(path)
    known = (read_recorded(path.parent) or {}).get(path.name)
    if known is not None:
        _check(path.parent, {path.name: known})
    return known


def digest(path: str | Path) -> str:
    """The SHA-256 of a file, taken from the record of its folder where that has it and the file is unchanged.

    Raises:
        UserError: the file has changed since.
    """
    known = check_file(path)
    return sha256(path) if known is None else known.sha256


def _read_seen(folder: Path) -> Mapping[str, list[int | str]]:
    try:
        seen = read_json(folder / SEEN)
    except (OSError, UserError):
        return {}
    return seen if isinstance(seen, dict) else {}


def _stamp(folder: Path, file: RecordedFile) -> list[int | str]:
    """What changes whenever a file is written again; ``ctime`` also does where the time of writing is put back."""
    try:
        found = (folder / file.name).stat()
    except OSError as error:
        raise gone(folder, file.name, error) from None
    if found.st_size != file.size:
        raise changed(folder, file.name, f"{found.st_size} bytes, not {file.size}")
    return [file.sha256, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def gone(folder: Path, name: str, error: OSError) -> UserError:
    """The sentence for a recorded file that can't be read."""
    path = folder / name
    if not path.is_symlink():
        return UserError(f"The file {name} in {folder} is gone; delete the folder and run again.")
    return UserError(
        f"The model in {folder} refers to {path.readlink()}, which can't be read any more"
        f" ({(error.strerror or 'not there').lower()}): put it back, or delete the folder and run again."
    )


def changed(folder: Path, name: str, found: str) -> UserError:
    """The sentence for a recorded file that is not as it was."""
    path = folder / name
    if not path.is_symlink():
        kind = "weights" if name.endswith(_WEIGHTS) else "files"
        return UserError(
            f"The {kind} in {folder} are damaged ({name} has {found} since it was written); delete the folder and run"
            " again."
        )
    return UserError(
        f"The model in {folder} refers to {path.readlink()}, which has changed since ({found}): put the former file"
        " back, or delete the folder and run again, which makes all results of this model anew."
    )


def _hash(paths: Mapping[str, Path], title: str) -> dict[str, str]:
    """The SHA-256 of each file."""
    total = sum(path.stat().st_size for path in paths.values())
    rate = Rate(f"{title}: hashing", "MB", total // 10**6) if total >= _LONG else None
    digests, read, told = {}, 0, 0
    for name, path in paths.items():
        value = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            while block := file.read(2**23):
                value.update(block)
                read += len(block)
                if rate is not None:
                    rate(read // 10**6 - told)
                    told = read // 10**6
        digests[name] = value.hexdigest()
    return digests


def as_rows(files: Collection[RecordedFile]) -> list[dict[str, int | str]]:
    """The files as a record keeps them."""
    return [file._asdict() for file in files]
