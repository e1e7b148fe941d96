"""A teacher's cache: all shards of it, checked against each other and against what a run expects."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitfusion.distill.packed import PackedText
from logitfusion.distill.shard import SETTINGS, Shard
from logitfusion.distill.teacher_text import TeacherText
from logitfusion.errors import UserError


class TeacherCache(Sequence[TeacherText]):
    """The texts of all shards of a cache, read from the disk on demand.

    Attributes:
        k: tokens kept of each position.
        vocabulary: of the teacher.
        tokens: of all responses.
        bytes_per_token: on the disk at most, without the 16 bytes of a text and rows that are kept exactly.
        settings: the part of the manifest that is of all shards alike.
        digests: by which its texts are known, in their order (``EncodedText.digest``).
    """

    def __init__(self, paths: Iterable[str | Path], expected: dict[str, Any] | None = None, *, verify: bool = True):
        """Open a cache.

        Args:
            paths: all of its shards, in any order.
            expected: values of ``SETTINGS`` that the cache must have been made with.
            verify: compare the digests of all files, which reads them once, at 0.5 to 1.5 GB/s.

        Raises:
            UserError: in one sentence, which file is broken, missing or of another cache.
        """
        if isinstance(paths, str | Path):  # its letters would be shards
            raise UserError(f"A teacher cache is opened by the list of its shards; give find_shards({str(paths)!r}).")
        self.shards = sorted((Shard(path, verify=verify) for path in paths), key=lambda shard: shard.manifest["shard"])
        if not self.shards:
            raise UserError("A teacher cache has at least one file; make it with logitfusion distill-cache.")
        _check_settings(self.shards, expected or {})
        _check_places(self.shards)
        self.settings = {name: self.shards[0].manifest[name] for name in SETTINGS}
        self.k: int = self.settings["k"]
        self.vocabulary: int = self.settings["vocabulary"]
        self.tokens = sum(shard.manifest["tokens"] for shard in self.shards)
        self.bytes_per_token: int = max(shard.manifest["bytes_per_token"] for shard in self.shards)
        self.digests = [digest for shard in self.shards for digest in shard.digests]
        self._firsts = [shard.manifest["first_text"] for shard in self.shards]
        self._length = sum(len(shard) for shard in self.shards)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> TeacherText:
        """The text number ``index``, or from the end if it is negative."""
        shard, number = self._find(index)
        return shard.read(number)

    def packed(self, index: int) -> PackedText:
        """The bytes of a text."""
        shard, number = self._find(index)
        return shard.read_packed(number)

    def ends(self, index: int) -> NDArray[np.int64]:
        """The ``ends`` of a text alone, ``[n]``."""
        shard, number = self._find(index)
        return shard.read_ends(number)

    def _find(self, index: int) -> tuple[Shard, int]:
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"the cache has {len(self)} texts, no number {index}")
        place = bisect_right(self._firsts, number) - 1
        return self.shards[place], number - self._firsts[place]


class PackedTexts(Sequence[PackedText]):
    """The texts of a cache as they are in its files, which other files may have from them."""

    def __init__(self, cache: TeacherCache) -> None:
        self._cache = cache

    def __len__(self) -> int:
        return len(self._cache)

    def __getitem__(self, index: int) -> PackedText:
        return self._cache.packed(index)


def tokenizer_folder(folder: str | Path) -> Path:
    """Where the teacher's tokenizer is beside its cache."""
    return Path(folder) / "tokenizer"


def find_shards(folder: str | Path) -> list[Path]:
    """The files of the cache in a folder.

    Raises:
        UserError: there are none.
    """
    found = sorted(Path(folder).glob("*.safetensors"))
    if not found:
        raise UserError(f"The folder {folder} holds no teacher cache; make it with logitfusion distill-cache.")
    return found


def _check_settings(shards: list[Shard], expected: dict[str, Any]) -> None:
    """All shards are of one cache, and that is the one which is expected."""
    if not expected.keys() <= set(SETTINGS):
        raise ValueError(f"a cache can be expected to have {', '.join(SETTINGS)}, not {', '.join(expected)}")
    first = shards[0]
    for shard in shards:
        field = differing(shard.manifest, first.manifest)
        if field is not None:
            raise UserError(
                f"{first.path} and {shard.path} are of different caches ({field} is {first.manifest[field]!r} and"
                f" {shard.manifest[field]!r}); keep one cache in a folder."
            )
    field = differing(first.manifest, {**first.manifest, **expected})
    if field is not None:
        raise UserError(
            f"{first.path} does not fit this run: its {field} is {first.manifest[field]!r}, and {expected[field]!r} is"
            " expected; make a cache for this run with logitfusion distill-cache."
        )


def differing(manifest: dict[str, Any], other: dict[str, Any]) -> str | None:
    """The first of the settings in which two manifests differ."""
    return next((name for name in SETTINGS if manifest[name] != other[name]), None)


def _check_places(shards: list[Shard]) -> None:
    """Every shard is there, once, and begins where the one before ends."""
    total = shards[0].manifest["shards"]
    by_number: dict[int, Shard] = {}
    for shard in shards:
        number = shard.manifest["shard"]
        if number in by_number:
            raise UserError(
                f"{by_number[number].path} and {shard.path} are both shard {number} of {total}; delete one of them."
            )
        by_number[number] = shard
    missing = sorted(set(range(1, total + 1)) - by_number.keys())
    if missing:
        raise UserError(
            f"Shard {missing[0]} of {total} is missing beside {shards[0].path}; call logitfusion distill-cache"
            " again, as before."
        )
    end = 0
    for shard in shards:
        if shard.manifest["first_text"] != end:
            raise UserError(
                f"{shard.path} has first_text {shard.manifest['first_text']}, and the shards before it end at"
                f" {end}; make the cache anew."
            )
        end += len(shard)
