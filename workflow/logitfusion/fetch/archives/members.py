"""Members of archives as files below a folder, and the sentences for archives that can't be unpacked."""

from __future__ import annotations

import errno
import lzma
import shutil
import struct
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO
from zipfile import BadZipFile

from logitfusion.errors import UserError
from logitfusion.fetch.archives.limits import ArchiveError

# A name that no file can have here: too long, or a folder's, or below what is a file. All others are of the disk.
_NAMES = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EILSEQ, errno.EINVAL}
# Of a damaged archive. An unknown compression is not implemented to zipfile; headers about headers nest in tarfile.
_DAMAGED = (
    *(tarfile.TarError, BadZipFile, zlib.error, lzma.LZMAError, EOFError, struct.error, UnicodeDecodeError),
    *(NotImplementedError, RecursionError, OverflowError),
)


@contextmanager
def named(archive: str | Path) -> Iterator[None]:
    """Turn what archives raise into one sentence that names the archive."""
    try:
        yield
    except ArchiveError as error:
        raise UserError(f"{archive} {error}; don't use it.") from None
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # zipfile seeks what is before 0
            raise
        reason = str(error).partition("\n")[0].rstrip(":.")  # tarfile adds a line for each format it tried
        raise UserError(
            f"{archive} is not a readable package ({reason or 'it is damaged'}); delete it and fetch it again."
        ) from None


def write_member(folder: Path, name: str, content: IO[bytes]) -> Path:
    """Write a member's content below ``folder``; a leading slash doesn't count.

    Raises:
        ArchiveError: a name that leads outside, or that no file below the folder can have.
    """
    place = PurePosixPath(name.lstrip("/"))
    if ".." in place.parts:
        raise ArchiveError(f"would write outside of its folder ({name!r})")
    if not place.parts:
        raise ArchiveError(f"has a file called {name!r}")
    target = folder / place
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.resolve().is_relative_to(folder.resolve()):
            raise ArchiveError(f"would write outside of its folder ({name!r})")
        with target.open("wb") as file:
            shutil.copyfileobj(content, file, 2**20)
    except OSError as error:
        if error.errno not in _NAMES:
            raise
        raise ArchiveError(f"has a file {_short(name)} that can't be written ({error.strerror.lower()})") from None
    except ArchiveError:
        raise
    except ValueError:  # a NUL within, or characters that no name can have
        raise ArchiveError(f"has a file called {_short(name)}") from None
    return target


def _short(name: str) -> str:
    return repr(name) if len(name) <= 100 else f"{name[:100]!r}..."
