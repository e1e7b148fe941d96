"""Archives that are damaged, hostile or endless: all of their files, or none and a sentence; nothing outside."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from damage import damage
from odd_archives import WHOLE, bomb, draw_archive, unpack
from outcomes import Case
from sizes import inputs

from logitfusion.fetch.archives import limits

Watch = Callable[..., None]


def unpack_bytes(kind: str, data: bytes, place: Path) -> dict[str, bytes]:
    """The files of an archive, unpacked into a folder that is empty before."""
    shutil.rmtree(place / "out", ignore_errors=True)
    (place / "archive").write_bytes(data)
    return unpack(kind, place / "archive", place / "out")


@inputs(60, 1500)
@pytest.mark.parametrize("kind", WHOLE)
def test_a_damaged_archive(kind: str, inputs: int, tmp_path: Path, watch: Watch) -> None:
    expected = unpack_bytes(kind, WHOLE[kind], tmp_path)
    watch(
        Case(name, lambda data=data: unpack_bytes(kind, data, tmp_path), lambda found: found == expected)
        for name, data in damage(WHOLE[kind], kind, inputs)
    )


@inputs(60, 1500)
@pytest.mark.parametrize("kind", ["tar.gz", "deb", "zip"])
def test_a_hostile_archive(kind: str, inputs: int, tmp_path: Path, watch: Watch) -> None:
    (tmp_path / "victim").write_bytes(b"mine")

    def is_harmless(found: dict[str, bytes]) -> bool:
        modes = [path.lstat().st_mode for path in (tmp_path / "out").rglob("*")]
        plain = all(stat.S_ISREG(mode) or stat.S_ISDIR(mode) for mode in modes)
        return plain and not any(mode & (stat.S_ISUID | stat.S_ISGID) for mode in modes) and is_unharmed()

    def is_unharmed() -> bool:
        there = {path.name for path in tmp_path.iterdir()}
        return (tmp_path / "victim").read_bytes() == b"mine" and there <= {"victim", "archive", "out"}

    def call(data: bytes) -> dict[str, bytes]:
        try:
            return unpack_bytes(kind, data, tmp_path)
        finally:
            assert is_unharmed(), "something outside was touched"

    watch(
        Case(
            f"{kind} {number}",
            lambda number=number: call(draw_archive(kind, Random(f"{kind} {number}"))),
            is_harmless,
        )
        for number in range(inputs)
    )


@pytest.mark.parametrize("kind", ["tar.gz", "tar.xz", "tar.bz2", "deb", "zip"])
def test_an_archive_of_zeros(kind: str, tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand times as large when it is unpacked; the limit is lowered to that of a small disk."""
    monkeypatch.setattr(limits, "LARGEST", 2**24)
    data = bomb(kind, 2**26)
    watch([Case(kind, lambda: unpack_bytes(kind, data, tmp_path), lambda found: False)])
    written = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert written <= 2**24 + 2**20, "no more than the limit was written"
