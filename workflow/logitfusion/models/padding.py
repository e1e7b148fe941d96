"""Batches of unequal sequences: padded on the left, so that all of them end in the last column."""

from __future__ import annotations

import torch


def left_pad(sequences: list[list[int]], value: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, mask and positions ``[B, L]`` of sequences padded on the left."""
    length = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), length), value, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        if sequence:
            ids[row, -len(sequence) :] = torch.tensor(sequence)
            mask[row, -len(sequence) :] = 1
    return ids, mask, (mask.cumsum(-1) - 1).clamp(min=0)
