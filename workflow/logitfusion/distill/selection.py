"""Parts of the logits of a long text, a few positions at a time.

Logits ``[B, L, V]`` are the largest thing in memory by far, so nothing here makes another tensor of their size except
the gradient with respect to them. Temporaries are fp32 (float64 for float64 logits) and of a chunk of positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

# Numbers in a chunk of positions: 4 MB of fp32 for each temporary, so that a CPU finds it in its cache at the next
# step. A GPU has no such cache and needs work for all of its cores: 64 MB.
_CHUNK = 1_000_000
_CHUNK_ON_GPU = 16_000_000
# Entries of a vocabulary whose largest is found first.
_BLOCK = 64
_LOG2_E = math.log2(math.e)
# Products of numbers beyond this and ``_LOG2_E`` are rounded too much for their difference.
_FAR = 1024.0


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp32 for everything but float64: sums over a text leave the range of fp16 and the precision of bf16."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def chunks(length: int, width: int, device: torch.device) -> Iterator[slice]:
    """Slices of ``length`` rows of ``width`` numbers each."""
    step = max(1, (_CHUNK if device.type == "cpu" else _CHUNK_ON_GPU) // max(width, 1))
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def index_of(places: Tensor) -> tuple[Tensor, Tensor] | tuple[int, slice]:
    """What logits ``[B, L, V]`` are indexed with to get those of places ``[n, 2]``, n > 0, as ``[n, V]``.

    On a CPU a slice, which copies nothing, where the places are neighbours.
    """
    texts, positions = places[:, 0], places[:, 1]
    if places.device.type == "cpu" and (texts == texts[0]).all() and (positions.diff() == 1).all():
        return int(texts[0]), slice(int(positions[0]), int(positions[-1]) + 1)
    return texts, positions


def top_k(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``rows.topk(k)`` of ``[..., V]``, values and ids, several times faster on a CPU where V is large.

    Blocks of the vocabulary are compared by their largest entries. The k first blocks hold k entries that no entry of
    another block exceeds, so the top-k are searched there and in the remainder after the last whole block.
    """
    vocabulary = rows.shape[-1]
    count = vocabulary // _BLOCK
    if count < 2 * k:
        return rows.topk(k)
    whole = count * _BLOCK
    blocks = rows[..., :whole].unflatten(-1, (count, _BLOCK)).amax(-1).topk(k, sorted=False).indices
    ids = (_BLOCK * blocks[..., None] + torch.arange(_BLOCK, device=rows.device)).flatten(-2)
    if whole < vocabulary:
        rest = torch.arange(whole, vocabulary, device=rows.device).expand(*ids.shape[:-1], -1)
        ids = torch.cat([ids, rest], dim=-1)
    values, places = rows.gather(-1, ids).topk(k)
    return values, ids.gather(-1, places)


def log_normaliser(logits: Tensor, largest: Tensor | None = None) -> Tensor:
    """``logsumexp`` over the vocabulary, and 0 where every entry is -inf, so that each probability there is 0.

    Args:
        logits: ``[..., V]``, fp32 or float64.
        largest: ``[..., 1]``, the largest of each row if it is known.
    """
    largest = logits.amax(-1, keepdim=True) if largest is None else largest
    largest = largest.masked_fill(largest.isneginf(), 0.0)
    norm = largest + shifted_exp(logits, largest).sum(-1, keepdim=True).log()
    return norm.masked_fill(norm.isneginf(), 0.0)


def shifted_exp(rows: Tensor, shift: Tensor) -> Tensor:
    """``exp(rows - shift)`` as a new tensor; on a CPU, torch takes three times as long for exp as for exp2."""
    if rows.device.type != "cpu" or (shift.abs() > _FAR).any():  # a GPU would have to be waited for
        return (rows - shift).exp_()
    return torch.add(-_LOG2_E * shift, rows, alpha=_LOG2_E).exp2_()
