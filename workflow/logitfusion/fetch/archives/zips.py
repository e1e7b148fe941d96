"""Zip archives: wheels, and files of weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from logitfusion.fetch.archives.digest import check_kept
from logitfusion.fetch.archives.limits import MOST, ArchiveError, largest_of, too_large
from logitfusion.fetch.archives.members import named, write_member

_ENCRYPTED = 0x1


@contextmanager
def open_zip(path: str | Path, sha256: str | None = None) -> Iterator[ZipFile]:
    """A zip archive whose members may be read, all together too; each is checked against its checksum.

    Args:
        sha256: of the archive, where it is known.

    Raises:
        UserError: no such file or another one, no readable archive, an encrypted one, or one that is too large.
    """
    check_kept(path, sha256)
    with named(path), _open(path) as archive:
        _check(archive, largest_of(path))
        yield archive


def _open(path: str | Path) -> ZipFile:
    try:
        return ZipFile(path)
    except (ValueError, LookupError) as error:  # of offsets and sizes that are none
        raise BadZipFile(str(error)) from None


def _check(archive: ZipFile, largest: int) -> None:
    members = archive.infolist()
    if len(members) > MOST:
        raise ArchiveError(f"has more than {MOST:,} members")
    if sum(member.file_size for member in members) > largest:
        raise too_large(largest)
    locked = next((member.filename for member in members if member.flag_bits & _ENCRYPTED), None)
    if locked is not None:
        raise ArchiveError(f"is encrypted ({locked!r})")


def unpack_zip(archive: ZipFile, names: Iterable[str], folder: str | Path) -> list[Path]:
    """Unpack members of an archive into ``folder``, under their names in it; folders are made where files need them."""
    written = []
    for name in names:
        with archive.open(name) as content:
            if not name.endswith("/"):
                written.append(write_member(Path(folder), name, content))
            elif content.read(1):  # a name with a flipped bit
                raise ArchiveError(f"has a folder with a content ({name!r})")
    return written
