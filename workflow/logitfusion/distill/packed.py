"""A teacher's predictions of a text in the bytes that a cache keeps of them.

Of a token that is the set of its k likeliest (``sets``), each with the level of its log-probability (``rounding``), and
what is of the token alone: the step of these levels, the tail, the label's log-probability and the bytes it covers.
Every row is read again when it is packed. One that has lost more than its rounding may is kept exactly, beside the
others: rows with excluded tokens (-inf), or whose probabilities don't come to 1, and whatever needs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from logitfusion.config.distill import Rounding
from logitfusion.distill.rounding import choose_levels, divergence, read_bfloat16, read_levels
from logitfusion.distill.sets import SetCode
from logitfusion.distill.teacher_text import TeacherText
from logitfusion.distill.texts import UNKNOWN_TEXT

# numpy's types of those that safetensors names; numpy has no bfloat16.
STORED = {"I64": "<i8", "F32": "<f4", "U32": "<u4", "F16": "<f2", "U16": "<u2", "BF16": "<u2", "U8": "|u1"}
# The place of a row that is kept exactly, its tokens and their log-probabilities.
EXACT = {"exact_rows": "I64", "exact_ids": "U32", "exact_log_probs": "F32"}


@dataclass(frozen=True)
class Form:
    """What a rounding comes to.

    Attributes:
        bits: of a level.
        label: type of label_log_probs.
        divergence: most that a row may lose, in nats.
    """

    bits: int
    label: str
    divergence: float


FORMS: dict[Rounding, Form] = {"fine": Form(11, "F32", 1e-6), "coarse": Form(6, "F16", 1e-3)}
# What a row may lose beside its step, of each log-probability: half precision. Where the tail is nearly all, single
# precision says no more of the rest.
_HALF = 2**-11
_TORCH = {"F32": torch.float32, "F16": torch.float16}


@dataclass(frozen=True)
class PackedText:
    """The rows of a text as a cache has them, and those that it keeps exactly, counted from the text's first.

    Attributes:
        columns: by the names of ``RowCode.columns``, each ``[n, ...]``; spans are of 32 bits.
        exact: by the names of ``EXACT``, of e rows ``[e]``, ``[e, k]`` and ``[e, k]``.
        digest: of the text.
    """

    columns: dict[str, NDArray[Any]]
    exact: dict[str, NDArray[Any]]
    digest: bytes

    def __len__(self) -> int:
        return len(self.columns["spans"])


def exact_columns(k: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of what is kept of a row that is kept exactly."""
    return {name: (kind, () if name == "exact_rows" else (k,)) for name, kind in EXACT.items()}


def no_exact_rows(k: int) -> dict[str, NDArray[Any]]:
    """The ``exact`` of a text that has none."""
    return {name: np.empty((0, *shape), STORED[kind]) for name, (kind, shape) in exact_columns(k).items()}


@dataclass(frozen=True)
class RowCode:
    """How the rows of a cache are written.

    Attributes:
        k: tokens of a row.
        vocabulary: of the teacher.
        rounding: of its log-probabilities.
    """

    k: int
    vocabulary: int
    rounding: Rounding

    @property
    def form(self) -> Form:
        return FORMS[self.rounding]

    @cached_property
    def sets(self) -> SetCode:
        return SetCode(self.k, self.vocabulary, self.form.bits)

    def columns(self, longest: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Type and shape of what is kept of a token, where the longest covers so many bytes."""
        spans = "U8" if longest < 2**8 else "U16" if longest < 2**16 else "U32"
        single = {"label_log_probs": self.form.label, "tail": "F32", "steps": "BF16", "spans": spans}
        return {name: (kind, ()) for name, kind in single.items()} | {"codes": ("U8", (self.sets.bytes,))}

    def row_bytes(self, longest: int) -> int:
        """What a row takes that is not kept exactly."""
        return sum(np.dtype(STORED[kind]).itemsize * prod(shape) for kind, shape in self.columns(longest).values())

    def pack(self, text: TeacherText) -> PackedText:
        """The bytes of a text.

        Raises:
            ValueError: it is none of this k and vocabulary.
        """
        _check(text, self.k, self.vocabulary)
        log_probs, ids = text.log_probs.cpu().float().numpy(), text.ids.cpu().numpy()
        finite = np.isfinite(log_probs).all(1)
        levels, steps = choose_levels(np.where(finite[:, None], log_probs, 0), self.form.bits)
        columns = {
            "codes": self.sets.pack(ids, levels),
            "steps": steps,
            "tail": text.tail.cpu().float().numpy(),
            "label_log_probs": text.label_log_probs.cpu().to(_TORCH[self.form.label]).numpy(),
            "spans": np.diff(text.ends.cpu().numpy(), prepend=0).astype(np.uint32),
        }
        lost = np.flatnonzero(~(finite & self._holds(columns, log_probs)))
        exact = {"exact_rows": lost, "exact_ids": ids[lost].astype(np.uint32), "exact_log_probs": log_probs[lost]}
        return PackedText(columns, exact, text.digest)

    def _holds(self, columns: dict[str, NDArray[Any]], log_probs: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which rows lose no more than they may, read again from their bytes."""
        found, _ = self._read_rows(columns)
        with np.errstate(invalid="ignore"):
            near = np.abs(found - log_probs) <= read_bfloat16(columns["steps"])[:, None] + _HALF * np.abs(log_probs)
            return near.all(1) & (divergence(log_probs, found) <= self.form.divergence)

    def unpack(self, packed: PackedText) -> TeacherText:
        """The text of its bytes; tokens of the same level are in the order of their numbers.

        Raises:
            ValueError: they are no rows of this code.
        """
        log_probs, ids = self._read_rows(packed.columns)
        places = packed.exact["exact_rows"]
        log_probs[places], ids[places] = packed.exact["exact_log_probs"], packed.exact["exact_ids"]
        return TeacherText(
            log_probs=torch.from_numpy(log_probs),
            ids=torch.from_numpy(ids),
            tail=torch.from_numpy(packed.columns["tail"]),
            label_log_probs=torch.from_numpy(packed.columns["label_log_probs"]).float(),
            ends=torch.from_numpy(packed.columns["spans"].cumsum(dtype=np.int64)),
            digest=packed.digest,
        )

    def _read_rows(self, columns: dict[str, NDArray[Any]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Log-probabilities and ids, the likeliest first."""
        ids, levels = self.sets.unpack(columns["codes"])
        both = levels << 32 | ids
        both.sort(axis=1)
        return read_levels(both >> 32, columns["steps"], columns["tail"]), both & 0xFFFFFFFF


def _check(text: TeacherText, k: int, vocabulary: int) -> None:
    n = len(text)
    shapes = [tuple(part.shape) for part in (text.log_probs, text.ids, text.tail, text.label_log_probs, text.ends)]
    if len(text.digest) != len(UNKNOWN_TEXT):
        raise ValueError(f"the digest of a text has {len(UNKNOWN_TEXT)} bytes, not {len(text.digest)}")
    if shapes != [(n, k), (n, k), (n,), (n,), (n,)]:
        raise ValueError(f"a text of {n} tokens and k = {k} has the shapes {shapes}")
    if (text.log_probs.diff(dim=1) > 0).any():
        raise ValueError("log-probabilities of a position are not descending")
    if n and (int(text.ids.min()) < 0 or int(text.ids.max()) >= vocabulary):
        raise ValueError(f"ids are not within a vocabulary of {vocabulary}")
    if text.log_probs.isnan().any() or text.tail.isnan().any() or text.label_log_probs.isnan().any():
        raise ValueError("a text has probabilities that are not a number")
    if n and (int(text.ends[0]) < 0 or int(text.ends[-1]) >= 2**32 or (text.ends.diff() < 0).any()):
        raise ValueError("ends are bytes of a response, ascending from 0 to 2^32 - 1")
