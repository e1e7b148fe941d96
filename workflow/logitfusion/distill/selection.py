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
    if (shift.abs() > _FAR).any():
        return (rows - shift).exp_()
    return torch.add(-_LOG2_E * shift, rows, alpha=_LOG2_E).exp2_()


class SortedL1(torch.autograd.Function):
    """``sum_i |p_(i) - q_(i)|`` over the sorted probabilities of whole vocabularies, of pairs of positions.

    Kept sorting orders would be larger than the logits, so the backward pass sorts again. The shorter vocabulary is
    filled up with tokens of probability 0. Applied to student ``[B, L, V_s]``, teacher ``[B, L', V_t]`` and the places
    ``[N, 3]`` of the pairs (sequence, student's position, teacher's position); gives ``[N]``.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, student: Tensor, teacher: Tensor, pairs: Tensor) -> Tensor:
        ctx.save_for_backward(student, teacher, pairs)
        losses = torch.empty(len(pairs), dtype=working_dtype(student.dtype), device=student.device)
        for part in _pair_chunks(student, teacher, pairs):
            (ours, _), (theirs, _) = _sorted_pair(student, teacher, pairs[part])
            losses[part] = _difference(ours, theirs).abs_().sum(-1)
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> tuple[Tensor, None, None]:
        student, teacher, pairs = ctx.saved_tensors
        gradient = torch.zeros_like(student, memory_format=torch.contiguous_format)
        for part in _pair_chunks(student, teacher, pairs):
            (ours, order), (theirs, _) = _sorted_pair(student, teacher, pairs[part])
            signs = _difference(ours, theirs)[:, : ours.shape[-1]].sign_()
            slope = ours * (signs - (ours * signs).sum(-1, keepdim=True)) * upstream[part, None]
            rows = torch.empty_like(slope).scatter_(1, order, slope)
            gradient[pairs[part, 0], pairs[part, 1]] = rows.to(gradient.dtype)
        return gradient, None, None


def _pair_chunks(student: Tensor, teacher: Tensor, pairs: Tensor) -> Iterator[slice]:
    return chunks(len(pairs), max(student.shape[-1], teacher.shape[-1]), student.device)


def _sorted_pair(student: Tensor, teacher: Tensor, pairs: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """Probabilities in descending order, and that order, of the student and of the teacher."""
    dtype = working_dtype(student.dtype)
    rows = (student[pairs[:, 0], pairs[:, 1]].to(dtype), teacher[pairs[:, 0], pairs[:, 2]].to(dtype))
    return tuple(shifted_exp(row, log_normaliser(row)).sort(dim=-1, descending=True) for row in rows)


def _difference(ours: Tensor, theirs: Tensor) -> Tensor:
    """``ours - theirs`` with the narrower of the two filled up with zeros."""
    width = max(ours.shape[-1], theirs.shape[-1])
    difference = torch.nn.functional.pad(ours, (0, width - ours.shape[-1]))
    difference[:, : theirs.shape[-1]] -= theirs
    return difference
