"""Archives: whole ones of each format, members that no honest archive has, and a few bytes that are many."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

from logitfusion.fetch.archives import open_zip, unpack_deb, unpack_tar, unpack_zip

FILES = {"package/a.txt": b"one\n" * 50, "package/b/c.bin": bytes(range(256)) * 8, "package/empty": b""}

# Names that a member may have; the first is an honest one.
NAMES = (
    *(
        "package/a.txt",
        "",
        ".",
        "./",
        "..",
        "../victim",
        "a/../../victim",
        "/victim",
        "//victim",
        "a//b",
        "./a",
        "a/./b",
    ),
    *("a/", "a\\b", "..\\victim", "C:\\victim", "con", "a\nb", "a\0b", "\udcff", "x" * 300, "/".join(["x" * 99] * 50)),
    *(
        "package",
        "package/a.txt/below",
        " ",
        "a ",
        "-rf",
        "*",
        "~",
        "$HOME",
        "%2e%2e/victim",
        "\u202e",
        "{}",
        "a" * 256,
    ),
)
TYPES = (
    *(tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE),
    *(tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE, b"9"),
)


def tar(files: dict[str, bytes]) -> bytes:
    """An honest tar archive."""
    return make_tar([(_member(name, tarfile.REGTYPE), data) for name, data in files.items()])


def make_tar(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for entry, data in members:
            entry.size = len(data) if entry.isreg() else 0
            archive.addfile(entry, io.BytesIO(data))
    return content.getvalue()


def _member(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode = kind, link, 0o6777
    return entry


def deb(data: bytes, name: str = "data.tar.gz") -> bytes:
    """A Debian package: an ``ar`` archive of a tar archive."""
    parts = [b"!<arch>\n"]
    for one, content in (("debian-binary", b"2.0\n"), (name, data)):
        parts.append(f"{one:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content)
        parts.append(b"\n" * (len(content) % 2))
    return b"".join(parts)


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip archive; names may be there twice, or be none."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return content.getvalue()


WHOLE: dict[str, bytes] = {
    "tar.gz": gzip.compress(tar(FILES), mtime=0),
    "tar.xz": lzma.compress(tar(FILES)),
    "tar.bz2": bz2.compress(tar(FILES)),
    "deb": deb(gzip.compress(tar(FILES), mtime=0)),
    "zip": zipped(FILES),
    "stored zip": zipped(FILES, zipfile.ZIP_STORED),
}


def unpack(kind: str, archive: Path, folder: Path) -> dict[str, bytes]:
    """The files that an archive holds, by their names below the folder."""
    if "zip" in kind:
        with open_zip(archive) as opened:
            unpack_zip(opened, opened.namelist(), folder)
    else:
        (unpack_deb if kind == "deb" else unpack_tar)(archive, lambda name: True, folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def draw_archive(kind: str, draw: Random) -> bytes:
    """An archive of odd members; what they hold is ``evil``."""
    drawn = [draw.choice(NAMES) for _ in range(draw.randrange(1, 6))]
    names = [name.encode("utf-8", "replace").decode() for name in drawn]
    if "zip" in kind:
        return zipped(dict.fromkeys(names, b"evil"))
    members = []
    for name in names:
        entry = _member(name, draw.choice(TYPES), draw.choice(NAMES))
        members.append((entry, b"evil"))
    data = gzip.compress(make_tar(members), mtime=0)
    return deb(data) if kind == "deb" else data


def bomb(kind: str, size: int) -> bytes:
    """An archive of so many zeros."""
    zeros = tar({"zeros": bytes(size)}) if kind != "zip" else b""
    packed: dict[str, Callable[[], bytes]] = {
        "tar.gz": lambda: gzip.compress(zeros, 1),
        "tar.xz": lambda: lzma.compress(zeros, preset=0),
        "tar.bz2": lambda: bz2.compress(zeros, 9),
        "deb": lambda: deb(gzip.compress(zeros, 1)),
        "zip": lambda: zipped({"zeros": bytes(size)}),
    }
    return packed[kind]()
