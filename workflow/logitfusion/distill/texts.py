"""Texts as one model reads them, and how many of them are kept: their tokens take four bytes each, on the disk.

A million texts of 500 tokens are 2 to 4 GB so, where tuples of numbers would take 40 GB of memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from typing import IO, Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from logitfusion.errors import UserError
from logitfusion.files import find_disk_error

_SPILL = 2**26  # bytes that stay in memory
_NUMBER = np.dtype("<u4")
# In place of the digest of a text that nobody named.
UNKNOWN_TEXT = bytes(8)


@dataclass(frozen=True)
class EncodedText:
    """A text as one model reads it.

    Attributes:
        ids: the tokens of prompt, response, and what closes the response.
        start: place of the response's first token, at least 1: the logits at ``start - 1`` predict it.
        ends: for each token of a response, the byte of it (UTF-8) where it ends, not descending. What closes a response
            of n bytes (end of text, end of turn) ends at n + 1, so that it never belongs to the text. A response that
            was cut has nothing that closes it. In a chat each response goes on to count where the one before closed.
        digest: of prompt and response as they were given, 8 bytes, equal for all models.
        between: the places after ``start`` that are of no response: what others say between those of a chat.
    """

    ids: tuple[int, ...]
    start: int
    ends: tuple[int, ...]
    digest: bytes = UNKNOWN_TEXT
    between: tuple[int, ...] = ()

    @property
    def places(self) -> list[int]:
        """Of the tokens of responses, what closes them included; the logits before each predict it."""
        if not self.between:
            return list(range(self.start, len(self.ids)))
        between = set(self.between)
        return [place for place in range(self.start, len(self.ids)) if place not in between]

    @property
    def labels(self) -> tuple[int, ...]:
        """The responses' own tokens, what closes them included."""
        return self.ids[self.start :] if not self.between else tuple(self.ids[place] for place in self.places)


class Spool:
    """Bytes that are written one after the other and read anywhere: in memory, or in a file without a name if many."""

    def __init__(self, spill: int = _SPILL) -> None:
        self._spill, self._memory, self._size = spill, bytearray(), 0
        self._file: IO[bytes] | None = None

    def append(self, data: bytes) -> None:
        """Write.

        Raises:
            UserError: the folder of temporary files is full.
        """
        self._memory += data
        self._size += len(data)
        if len(self._memory) > self._spill:
            self._empty()

    def _empty(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="logitfusion-", buffering=0)  # noqa: SIM115 (it is kept)
            data = memoryview(self._memory)
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            why = find_disk_error(error) or error.strerror
            raise UserError(
                f"The texts' tokens could not be written to {tempfile.gettempdir()}: {why}; set TMPDIR to a folder with"
                " more room."
            ) from error
        self._memory = bytearray()

    def read(self, start: int, size: int) -> bytes:
        """What was written there; processes that were forked may all read."""
        written = self._size - len(self._memory)
        if start >= written:
            return bytes(self._memory[start - written : start - written + size])
        return os.pread(self._file.fileno(), size, start)

    def __getstate__(self) -> dict[str, Any]:
        """For a process that is spawned: the file has no name, and is handed over open."""
        return vars(self) | {"_file": None if self._file is None else DupFd(self._file.fileno())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        handed = state["_file"]
        vars(self).update(state | {"_file": None if handed is None else os.fdopen(handed.detach(), "r+b", buffering=0)})


class StoredTexts(Sequence[EncodedText]):
    """Encoded texts as a sequence; a slice shares what they are kept in.

    Attributes:
        tokens: of each text, ``[N]`` int64.
        starts: of each, the place of its response's first token, ``[N]``.
        labels: tokens of its responses, ``[N]``.
        digests: by which they are known.
    """

    def __init__(self, texts: Iterable[EncodedText], spill: int = _SPILL) -> None:
        self._spool, counts, digests = Spool(spill), [], []
        for text in texts:
            self._spool.append(np.array([*text.ids, *text.ends, *text.between], dtype=_NUMBER).tobytes())
            counts.append((len(text.ids), text.start, len(text.ends), len(text.between)))
            digests.append(text.digest)
        table = np.array(counts, dtype=np.int64).reshape(-1, 4)
        self.tokens, self.starts, self.labels, self._between = np.ascontiguousarray(table.T)
        sizes = self.tokens + self.labels + self._between
        self._places = _NUMBER.itemsize * (np.cumsum(sizes) - sizes)
        self.digests = digests

    def __len__(self) -> int:
        return len(self.tokens)

    @overload
    def __getitem__(self, number: int) -> EncodedText: ...
    @overload
    def __getitem__(self, number: slice) -> Self: ...
    def __getitem__(self, number: int | slice) -> EncodedText | Self:
        if isinstance(number, slice):
            return self._part(number)
        place = range(len(self))[number]
        numbers = self._read(place).tolist()
        ids, labels = int(self.tokens[place]), int(self.labels[place])
        ends, between = numbers[ids : ids + labels], numbers[ids + labels :]
        return EncodedText(
            tuple(numbers[:ids]), int(self.starts[place]), tuple(ends), self.digests[place], tuple(between)
        )

    def _part(self, which: slice) -> Self:
        part = object.__new__(type(self))
        part._spool = self._spool
        for name in ("tokens", "starts", "labels", "_between", "_places", "digests"):
            setattr(part, name, getattr(self, name)[which])
        return part

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(EncodedText.__eq__, self, other))

    __hash__ = None

    def _read(self, place: int) -> NDArray[np.uint32]:
        size = int(self.tokens[place] + self.labels[place] + self._between[place]) * _NUMBER.itemsize
        return np.frombuffer(self._spool.read(int(self._places[place]), size), dtype=_NUMBER)


def text_digests(texts: Sequence[EncodedText]) -> Sequence[bytes]:
    """The digests of texts, which those that are stored know without reading."""
    return texts.digests if isinstance(texts, StoredTexts) else [text.digest for text in texts]
