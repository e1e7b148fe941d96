"""Sets of numbers in few bits, each number with a small one beside it: Elias and Fano's code of sorted numbers.

Of k numbers below ``end`` the lower bits, ``log2(end / k)`` of each, stand as they are. The upper bits of all are one
row of bits, in which the i-th smallest, counted from 0, sets the bit ``upper + i``. That comes to at most
``2 + log2(end / k)`` bits a number, where the logarithm of the number of sets is ``1.44 + log2(end / k)`` of them (P.
Elias 1974, "Efficient storage and retrieval by content and address of static files"). Every set takes as many bytes, so
that one of many is found by its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

# A field is read in a word of 64 bits that begins with the byte in which it does.
_WORD = np.dtype(">u8")
_LARGEST_FIELD = 57


@dataclass(frozen=True)
class SetCode:
    """How sets are written: the row of upper bits, then of each number the lower bits and its note.

    Attributes:
        k: numbers of a set; some may be equal.
        end: they are from 0 to ``end - 1``.
        note_bits: of the small number beside each.
    """

    k: int
    end: int
    note_bits: int

    def __post_init__(self) -> None:
        if not (self.k >= 1 and self.end >= 1 and self.note_bits >= 0 and self._field <= _LARGEST_FIELD):
            raise ValueError(f"sets have numbers, and at most {_LARGEST_FIELD} bits for each, not as {self}")

    @property
    def bytes(self) -> int:
        """What a set takes."""
        return -(-(self._uppers + self.k * self._field) // 8)

    @cached_property
    def _lower(self) -> int:
        """Lower bits of a number."""
        return max(0, (self.end // self.k).bit_length() - 1)

    @property
    def _field(self) -> int:
        return self._lower + self.note_bits

    @property
    def _uppers(self) -> int:
        """Bits of the first row."""
        return self.k + (self.end - 1 >> self._lower)

    def pack(self, numbers: NDArray[np.int64], notes: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Sets ``[n, k]``, their numbers in any order, as ``[n, bytes]``."""
        order = numbers.argsort(axis=1, kind="stable")
        numbers, notes = (np.take_along_axis(part, order, 1) for part in (numbers, notes))
        fields = (numbers & (1 << self._lower) - 1) << self.note_bits | notes
        bits = np.zeros((len(numbers), 8 * self.bytes), dtype=np.uint8)
        np.put_along_axis(bits, (numbers >> self._lower) + np.arange(self.k), 1, axis=1)
        spelled = np.unpackbits(fields.astype(_WORD)[..., None].view(np.uint8), axis=2)
        rest = bits[:, self._uppers : self._uppers + self.k * self._field]
        rest[:] = spelled[..., 64 - self._field :].reshape(rest.shape)
        return np.packbits(bits, axis=1)

    def unpack(self, packed: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The numbers of each set, ascending, and their notes, both ``[n, k]``."""
        n, size = packed.shape
        ones = np.flatnonzero(np.unpackbits(packed, axis=1, count=self._uppers).view(bool)).reshape(n, self.k)
        upper = ones - (np.arange(n) * self._uppers)[:, None] - np.arange(self.k)
        padded = np.zeros((n, size + _WORD.itemsize), dtype=np.uint8)
        padded[:, :size] = packed
        words = np.ndarray((n, size), _WORD, padded, strides=(padded.strides[0], 1))  # one from each byte on
        starts = self._uppers + np.arange(self.k) * self._field
        fields = words[:, np.minimum(starts // 8, size - 1)].astype(np.int64) >> 64 - self._field - starts % 8
        return upper << self._lower | fields >> self.note_bits & (1 << self._lower) - 1, fields & (
            1 << self.note_bits
        ) - 1
