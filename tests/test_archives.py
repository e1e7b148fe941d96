"""Archives from elsewhere: read to their ends, held against their digests, bounded in size, refused in a sentence."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from logitfusion.clip.encoders.packages import find_package
from logitfusion.errors import UserError
from logitfusion.fetch import archives
from logitfusion.fetch.archives import limits, open_gzip, open_zip, tars, unpack_deb, unpack_tar, unpack_zip, zips
from logitfusion.fetch.pypi import unpack_file

Members = dict[str, bytes]
FILES: Members = {f"package/{n}.txt": random.Random(n).randbytes(700) for n in range(4)}


def tar(members: Members, mode: str = "w:gz") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return content.getvalue()


def deb(data: bytes, name: str = "data.tar.gz") -> bytes:
    packed = b"!<arch>\n"
    for member, content in (("debian-binary", b"2.0\n"), (name, data)):
        packed += f"{member:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        packed += b"\n" * (len(content) % 2)
    return packed


def zipped(members: Members, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("\0", "NUL"), data)
    return content.getvalue().replace(b"NUL", b"\0UL")  # zipfile writes no such name, and reads it as an empty one


def unpack_all(archive: Path, folder: Path, **options: Any) -> None:
    with open_zip(archive, **options) as opened:
        unpack_zip(opened, opened.namelist(), folder)


def unpack_all_of_tar(archive: Path, folder: Path, **options: Any) -> None:
    unpack_tar(archive, lambda name: True, folder, **options)


def unpack_all_of_deb(archive: Path, folder: Path, **options: Any) -> None:
    unpack_deb(archive, lambda name: True, folder, **options)


Unpack = Callable[..., None]
KINDS: dict[str, tuple[bytes, Unpack]] = {
    "tgz": (tar(FILES), unpack_all_of_tar),
    "tar.xz": (tar(FILES, "w:xz"), unpack_all_of_tar),
    "deb": (deb(tar(FILES)), unpack_all_of_deb),
    "zip": (zipped(FILES), unpack_all),
}


def sentence(unpack: Unpack, place: Path, folder: Path) -> str | None:
    """What an archive is refused with, if it is."""
    try:
        unpack(place, folder)
    except UserError as error:
        return str(error)
    return None


def refusal(place: Path, unpack: Unpack, **options: Any) -> str:
    """The sentence that an archive at ``place`` is refused with."""
    with pytest.raises(UserError) as refused:
        unpack(place, place.with_name("out"), **options)
    said = str(refused.value)
    assert str(place) in said
    assert "\n" not in said
    assert said.endswith((".", "?"))
    return said


def found(folder: Path) -> Members:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- damage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_bit_that_flips_in_an_archive_loses_nothing_unnoticed(tmp_path: Path, kind: str) -> None:
    """It is refused, or what comes out is the same to the byte."""
    content, unpack = KINDS[kind]
    path = tmp_path / "archive"
    refused = 0
    for bit in range(3, 8 * len(content), 211):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        out = tmp_path / f"{bit}"
        if said := sentence(unpack, path, out):
            assert str(path) in said
            refused += 1
        else:
            assert found(out) == FILES, bit
    assert refused > 20


@pytest.mark.parametrize("kind", KINDS)
def test_the_digest_is_checked_whenever_something_is_taken_out(tmp_path: Path, kind: str) -> None:
    content, unpack = KINDS[kind]
    path = tmp_path / "archive"
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    unpack(path, tmp_path / "whole", sha256=digest)
    assert found(tmp_path / "whole") == FILES
    path.write_bytes(content + b"\0")
    assert "is damaged, or not the expected one" in refusal(path, unpack, sha256=digest)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("compression", ["w", "w:gz"])
def test_a_tar_archive_is_read_to_its_end(tmp_path: Path, compression: str) -> None:
    """What tarfile takes for an end: a damaged header, and no more bytes where a header would be."""
    path = tmp_path / "archive"
    bare = tar(FILES, "w")
    wrap = gzip.compress if compression == "w:gz" else bytes
    damaged = bytearray(bare)
    damaged[2 * 1536 + 5] ^= 1  # the third header, of 512 bytes and 1024 of content each
    path.write_bytes(wrap(bytes(damaged)))
    assert "not a readable package" in refusal(path, unpack_all_of_tar)
    path.write_bytes(wrap(bare[: 2 * 1536]))
    assert "ends too early" in refusal(path, unpack_all_of_tar)
    path.write_bytes(wrap(bare + tar({"more": b"more"}, "w")))
    assert "more after its end" in refusal(path, unpack_all_of_tar)
    path.write_bytes(wrap(bare + bytes(5120)))
    unpack_all_of_tar(path, tmp_path / "whole")
    assert found(tmp_path / "whole") == FILES


# ---- bombs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tgz", "deb", "zip"])
def test_an_archive_may_not_unpack_to_more_than_it_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Of files that nobody asked for, too."""
    monkeypatch.setattr(limits, "LARGEST", 2**20)
    zeros = {"wanted": b"x", "zeros": bytes(2**21)}
    content = {"tgz": tar(zeros), "deb": deb(tar(zeros)), "zip": zipped(zeros)}[kind]
    path = tmp_path / "archive"
    path.write_bytes(content)
    assert len(content) < 10_000
    assert "unpacks to more than" in refusal(path, KINDS[kind][1])
    assert sum(map(len, found(tmp_path / "out").values())) <= 2**20
    chosen: Unpack = {
        "tgz": lambda archive, folder: unpack_tar(archive, lambda name: name == "wanted", folder),
        "deb": lambda archive, folder: unpack_deb(archive, lambda name: name == "wanted", folder),
        "zip": lambda archive, folder: unpack_file(archive, "wanted", folder),
    }[kind]
    assert "unpacks to more than" in refusal(path, chosen)


def test_an_archive_that_is_large_itself_may_be_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LARGEST", 100)
    (tmp_path / "archive").write_bytes(zipped(FILES, zipfile.ZIP_STORED))
    unpack_all(tmp_path / "archive", tmp_path / "out")
    assert found(tmp_path / "out") == FILES


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_has_a_limit_on_its_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(tars, "MOST", 3)
    monkeypatch.setattr(zips, "MOST", 3)
    (tmp_path / "archive").write_bytes(KINDS[kind][0])
    assert "more than 3 members" in refusal(tmp_path / "archive", KINDS[kind][1])


def test_ten_gigabytes_of_zeros_are_not_unpacked(tmp_path: Path) -> None:
    """The real limit, by what the archive says of itself; a lie would end at the size that it says."""
    path = tmp_path / "archive"
    two = zipped({"zeros": bytes(2**20), "more": b""})
    content = bytearray(two)
    for start in (content.index(b"PK\x01\x02"), content.rindex(b"PK\x01\x02")):
        content[start + 24 : start + 28] = (2**32 - 2).to_bytes(4, "little")
    path.write_bytes(content)
    assert "unpacks to more than 4 GiB" in refusal(path, unpack_all)


def test_a_header_is_no_place_for_a_bomb(tmp_path: Path) -> None:
    """tarfile reads long names, and other words about a member, into memory."""
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE):
        content = io.BytesIO()
        entry = tarfile.TarInfo("name")
        entry.type, entry.size = kind, 2**30
        content.write(entry.tobuf())
        (tmp_path / "archive").write_bytes(gzip.compress(content.getvalue()))
        assert "no sensible size" in refusal(tmp_path / "archive", unpack_all_of_tar)
    headers = b"".join(_global_header() for _ in range(3000))
    (tmp_path / "archive").write_bytes(headers + tar(FILES, "w"))
    refusal(tmp_path / "archive", unpack_all_of_tar)


def _global_header() -> bytes:
    entry = tarfile.TarInfo("pax")
    entry.type, entry.size = tarfile.XGLTYPE, 0
    return entry.tobuf()


def test_a_file_with_holes_is_not_unpacked(tmp_path: Path) -> None:
    """It may be of any size, whatever is in the archive."""
    entry = tarfile.TarInfo("holes")
    entry.size, entry.pax_headers = 0, {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(2**50)}
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(entry)
    (tmp_path / "archive").write_bytes(content.getvalue())
    assert "holes" in refusal(tmp_path / "archive", unpack_all_of_tar)


def test_a_file_of_gzip_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives.gzips, "LARGEST_FILE", 1000)
    assert open_gzip(io.BytesIO(gzip.compress(bytes(1000)))).read() == bytes(1000)
    with pytest.raises(ValueError, match="unpacks to more"):
        open_gzip(io.BytesIO(gzip.compress(bytes(1001)))).read()


# ---- odd members --------------------------------------------------------------------------------------------------

NAMES = ["\0b", ".", "./", "/", "..", "../x", "a/../../x", "a/..", "x" * 300, "x/" * 3000 + "x", "package", "a\\..\\x"]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
@pytest.mark.parametrize("kind", ["tgz", "deb", "zip"])
def test_odd_names_are_sentences(tmp_path: Path, kind: str, name: str) -> None:
    """A name of a file that is none, leads outside, is too long, or is a folder's that is there already."""
    members = {**FILES, name: b"evil"}
    content = {"tgz": lambda: tar(members), "deb": lambda: deb(tar(members)), "zip": lambda: zipped(members)}[kind]()
    path = tmp_path / "archive"
    path.write_bytes(content)
    said = sentence(KINDS[kind][1], path, tmp_path / "out")
    assert said is None or (str(path) in said and "\n" not in said)
    assert {one.name for one in tmp_path.iterdir()} == {"archive", "out"}
    assert all(name.startswith("package/") or name in ("a\\..\\x",) for name in found(tmp_path / "out"))


@pytest.mark.parametrize("kind", ["tgz", "deb", "zip"])
def test_a_file_where_a_folder_should_be_is_a_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "archive"
    members = {"a": b"file", "a/b": b"below it"}
    path.write_bytes({"tgz": tar(members), "deb": deb(tar(members)), "zip": zipped(members)}[kind])
    assert "can't be written" in refusal(path, KINDS[kind][1])


def encrypted() -> bytes:
    content = bytearray(zipped({"weights.pth": b"secret"}))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def unknown_compression() -> bytes:
    content = bytearray(zipped({"weights.pth": b"odd"}))
    content[8] = 97
    content[content.index(b"PK\x01\x02") + 10] = 97
    return bytes(content)


@pytest.mark.parametrize("content", [encrypted(), unknown_compression(), b"", b"PK\x05\x06", zipped(FILES)[:-30]])
def test_zips_that_can_not_be_read_are_sentences(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd-1.whl"
    path.write_bytes(content)
    refusal(path, unpack_all)
    with pytest.raises(UserError, match=r"odd-1\.whl"):
        unpack_file(path, "weights.pth", tmp_path / "out")
    if content == encrypted():
        with pytest.raises(UserError, match="is encrypted"):
            find_package(str(path), None, "resnet18")


@pytest.mark.parametrize("unpack", [unpack_all, unpack_all_of_tar, unpack_all_of_deb])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, unpack: Unpack) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a file" in refusal(tmp_path / "pipe", unpack)
    assert "not a file" in refusal(tmp_path, lambda archive, folder: unpack(archive, folder / "out"))
    assert "not there" in refusal(tmp_path / "nothing", unpack)
