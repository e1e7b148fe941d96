"""What a teacher makes of one response, as it is written into a cache and read from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from logitfusion.distill.texts import UNKNOWN_TEXT


@dataclass(frozen=True, eq=False)
class TeacherText:
    """What a teacher makes of the n tokens of one response.

    Attributes:
        log_probs: ``[n, k]`` fp32, natural log-probabilities over the whole vocabulary, descending.
        ids: ``[n, k]`` int64, the tokens that have them.
        tail: ``[n]`` fp32, the probability of all tokens that are not among ``ids``.
        label_log_probs: ``[n]`` fp32, of the response's own tokens.
        ends: ``[n]`` int64, the bytes of the response where its tokens end, ascending (``EncodedText.ends``).
        digest: 8 bytes, by which the text is known (``EncodedText.digest``).
    """

    log_probs: Tensor
    ids: Tensor
    tail: Tensor
    label_log_probs: Tensor
    ends: Tensor
    digest: bytes = UNKNOWN_TEXT

    def __len__(self) -> int:
        return len(self.ends)


def no_tokens(k: int, digest: bytes = UNKNOWN_TEXT) -> TeacherText:
    """What a teacher makes of a response without tokens."""
    numbers, ids = torch.zeros(0), torch.zeros(0, dtype=torch.long)
    return TeacherText(numbers.reshape(0, k), ids.reshape(0, k), numbers, numbers, ids, digest)
