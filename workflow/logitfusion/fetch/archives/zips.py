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
_MEMBER = b"PK\x03\x04"
_HEAD = 30  # bytes that a member begins with, its name and what else is told of it not counted
_AFTER = (0, 12, 16, 20, 24)  # bytes that its sizes may take behind it


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
    if _lacks_members(archive):
        raise ArchiveError("has members that are not in its table")


def _lacks_members(archive: ZipFile) -> bool:
    """Whether a member that the table at the end does not list is in front of another, or of none.

    A table that lost entries is as good as one of fewer members to zipfile.
    """
    listed = {member.header_offset for member in archive.infolist()}
    ends = [0]
    for member in archive.infolist():
        head = _read(archive, member.header_offset, _HEAD)
        names = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        ends.append(member.header_offset + _HEAD + names + member.compress_size)
    for end in ends:
        found = _read(archive, end, _AFTER[-1] + len(_MEMBER))
        if any(found[skip:].startswith(_MEMBER) and end + skip not in listed for skip in _AFTER):
            return True
    return False


def _read(archive: ZipFile, place: int, size: int) -> bytes:
    archive.fp.seek(place)
    return archive.fp.read(size)


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
