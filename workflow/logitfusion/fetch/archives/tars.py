"""Tar archives: npm's .tgz, and the data of Debian's .deb."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Self

from logitfusion.fetch.archives.digest import check_kept
from logitfusion.fetch.archives.limits import MOST, ArchiveError, Bounded, Part, largest_of
from logitfusion.fetch.archives.members import named, write_member

_FORMATS: dict[bytes, Callable[[BinaryIO], BinaryIO]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"BZh": bz2.BZ2File,
}
_LONGEST_HEADER = 2**20  # bytes: tarfile reads long names and other words about a member into memory
_WORDS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, b"X")


def unpack_tar(
    archive: str | Path, chosen: Callable[[str], bool], folder: str | Path, sha256: str | None = None
) -> list[str]:
    """Unpack a tar archive's chosen regular files into ``folder``, under their names in the archive.

    Args:
        sha256: of the archive, where it is known.

    Returns:
        The names, in the archive's order.

    Raises:
        UserError: no such file or another one, no whole archive, one that is too large, or a member that would land
            outside of ``folder``.
    """
    check_kept(archive, sha256)
    with named(archive), Path(archive).open("rb") as file:
        return _unpack(file, chosen, Path(folder), largest_of(archive))


def unpack_deb(
    archive: str | Path, chosen: Callable[[str], bool], folder: str | Path, sha256: str | None = None
) -> list[str]:
    """The same for the data of a Debian package: an ``ar`` archive that holds a tar archive ``data.tar.*``."""
    check_kept(archive, sha256)
    with named(archive), Path(archive).open("rb") as file:
        data = io.BufferedReader(_deb_data(file, Path(archive).stat().st_size))
        return _unpack(data, chosen, Path(folder), largest_of(archive))


def _unpack(file: BinaryIO, chosen: Callable[[str], bool], folder: Path, largest: int) -> list[str]:
    start = file.peek(6)[:6]
    decompress = next((one for magic, one in _FORMATS.items() if start.startswith(magic)), None)
    stream = io.BufferedReader(Bounded(decompress(file) if decompress else file, largest), 2**20)
    names = []
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as opened:
        for number, member in enumerate(opened):
            if number >= MOST:
                raise ArchiveError(f"has more than {MOST:,} members")
            name = member.name.removeprefix("./")
            if member.isreg() and chosen(name):
                if member.issparse():  # of any size that it claims
                    raise ArchiveError(f"has a file with holes ({name!r})")
                write_member(folder, name, opened.extractfile(member))
                names.append(name)
    # To the end, where the checksum is: what is cut off or changed there would be lost without a word.
    while block := stream.read(2**20):
        if block.strip(b"\0"):
            raise tarfile.ReadError("there is more after its end")
    return names


class _Member(tarfile.TarInfo):
    """A member whose damaged header is an error; tarfile takes one for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # zeros: the end as it should be
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error) if str(error) != "empty header" else "it ends too early") from None

    @classmethod
    def frombuf(cls, block: bytes, encoding: str, errors: str) -> Self:
        member = super().frombuf(block, encoding, errors)
        if member.size < 0 or (member.type in _WORDS and member.size > _LONGEST_HEADER):
            raise ArchiveError("has a header of no sensible size")
        return member


_AR_HEADER = 60  # name 16, time 12, owner 6, group 6, mode 8, size 10, end 2


def _deb_data(file: BinaryIO, length: int) -> Part:
    """The member ``data.tar.*`` of a .deb of so many bytes."""
    if file.read(8) != b"!<arch>\n":
        raise tarfile.ReadError("not a Debian package")
    while len(header := file.read(_AR_HEADER)) == _AR_HEADER:
        name, digits = (field.decode("latin1").strip() for field in (header[:16], header[48:58]))
        if not (digits.isascii() and digits.isdecimal()):  # a size below zero would lead back, again and again
            raise tarfile.ReadError("a member has no size")
        size = int(digits)
        if file.tell() + size > length:
            raise tarfile.ReadError("it ends too early")
        if name.startswith("data.tar"):
            return Part(file, size)
        file.seek(size + size % 2, io.SEEK_CUR)  # members start at even places
    raise tarfile.ReadError("it has no data.tar")
