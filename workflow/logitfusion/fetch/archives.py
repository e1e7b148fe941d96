"""Archives of package managers (npm's .tgz, Debian's .deb), unpacked by member into one folder, never outside."""

from __future__ import annotations

import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from logitfusion.errors import UserError


@contextmanager
def _named(archive: str | Path) -> Iterator[None]:
    """Turn what archives raise into one sentence that names the archive."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"The package {archive} is not there; fetch it again.") from None
    except tarfile.FilterError as error:
        raise UserError(f"{archive} would write outside of its folder ({error}); don't use it.") from None
    except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error).partition("\n")[0].rstrip(":")  # tarfile adds a line for each format it tried
        raise UserError(f"{archive} is not a readable package ({reason}); delete it and fetch it again.") from None


def unpack_tar(archive: str | Path, chosen: Callable[[str], bool], folder: str | Path) -> list[str]:
    """Unpack a tar archive's chosen regular files into ``folder``, under their names in the archive.

    Returns:
        The names, in the archive's order.

    Raises:
        UserError: no such file, no readable archive, or a member that would land outside of ``folder``.
    """
    with _named(archive), tarfile.open(archive) as opened:
        return _unpack(opened, chosen, folder)


def unpack_deb(archive: str | Path, chosen: Callable[[str], bool], folder: str | Path) -> list[str]:
    """The same for the data of a Debian package: an ``ar`` archive that holds a tar archive ``data.tar.*``."""
    with _named(archive):
        data = _deb_data(Path(archive))
        with tarfile.open(fileobj=io.BytesIO(data)) as opened:
            return _unpack(opened, chosen, folder)


def _unpack(opened: tarfile.TarFile, chosen: Callable[[str], bool], folder: str | Path) -> list[str]:
    names = []
    for member in opened:
        name = member.name.removeprefix("./")
        if member.isreg() and chosen(name):
            opened.extract(member, folder, filter="data")
            names.append(name)
    return names


_AR_HEADER = 60  # name 16, time 12, owner 6, group 6, mode 8, size 10, end 2


def _deb_data(archive: Path) -> bytes:
    """The bytes of the member ``data.tar.*`` of a .deb."""
    with archive.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise tarfile.ReadError("not a Debian package")
        while len(header := file.read(_AR_HEADER)) == _AR_HEADER:
            name, digits = (field.decode("latin1").strip() for field in (header[:16], header[48:58]))
            if not digits.isdecimal():  # a size below zero would lead back, again and again
                raise tarfile.ReadError("a member has no size")
            size = int(digits)
            if name.startswith("data.tar"):
                data = file.read(size)
                if len(data) != size:
                    raise tarfile.ReadError("it ends too early")
                return data
            file.seek(size + size % 2, io.SEEK_CUR)  # members start at even places
    raise tarfile.ReadError("it has no data.tar")
