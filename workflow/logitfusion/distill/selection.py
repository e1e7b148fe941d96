"""Parts of the logits of a long text, a few positions at a time.

Logits ``[B, L, V]`` are the largest thing in memory by far, so nothing here makes another tensor of their size except
the gradient with respect to them. Temporaries are fp32 (float64 for float64 logits) and of a chunk of positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
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
    if rows.device.type != "cpu" or (shift.abs() > _FAR).any():  # a GPU would have to be waited for
        return (rows - shift).exp_()
    return torch.add(-_LOG2_E * shift, rows, alpha=_LOG2_E).exp2_()


class SortedL1(torch.autograd.Function):
    """``sum_i |p_(i) - q_(i)|`` over the sorted probabilities of whole vocabularies, of pairs of positions.

    Of the sorting, the backward pass needs for each of the student's tokens on which side of the teacher's entry of the
    same rank it is: one byte a token, where the order itself would be larger than the logits. The shorter vocabulary is
    filled up with tokens of probability 0. Applied to student ``[B, L, V_s]``, teacher ``[B, L', V_t]``, the places
    ``[N, 3]`` of the pairs (sequence, student's position, teacher's position), and the logarithms of what both
    distributions are multiplied by, ``[N, 2]``; gives ``[N]``. Gradients flow to the student and its factors.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, student: Tensor, teacher: Tensor, pairs: Tensor, factors: Tensor
    ) -> Tensor:
        dtype = working_dtype(student.dtype)
        losses = torch.empty(len(pairs), dtype=dtype, device=student.device)
        norms = torch.empty(len(pairs), 1, dtype=dtype, device=student.device)
        signs = torch.empty(len(pairs), student.shape[-1], dtype=torch.int8, device=student.device)
        for part in _pair_chunks(student, teacher, pairs):
            rows = student[pairs[part, 0], pairs[part, 1]].to(dtype)
            norms[part] = log_normaliser(rows)
            theirs = teacher[pairs[part, 0], pairs[part, 2]].to(dtype)
            order = _descending_order(rows)
            difference = _difference(
                shifted_exp(rows.gather(1, order), norms[part] - factors[part, :1]),
                _descending(shifted_exp(theirs, log_normaliser(theirs) - factors[part, 1:])),
            )
            losses[part] = difference.abs().sum(-1)
            signs[part] = _signs(difference, order)
        ctx.save_for_backward(student, pairs, norms, signs, factors[:, :1].exp())
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> tuple[Tensor, None, None, Tensor]:
        student, pairs, norms, signs, factors = ctx.saved_tensors
        gradient = torch.zeros_like(student, memory_format=torch.contiguous_format)
        of_factors = upstream.new_zeros(len(pairs), 2)
        for part in chunks(len(pairs), student.shape[-1], student.device):
            where = pairs[part, 0], pairs[part, 1]
            ours = shifted_exp(student[where].to(norms.dtype), norms[part])
            slope = ours * signs[part]
            total = slope.sum(-1, keepdim=True)
            slope -= ours * total
            gradient[where] = (slope * (factors[part] * upstream[part, None])).to(gradient.dtype)
            of_factors[part, :1] = factors[part] * total * upstream[part, None]
        return gradient, None, None, of_factors


def _pair_chunks(student: Tensor, teacher: Tensor, pairs: Tensor) -> Iterator[slice]:
    return chunks(len(pairs), max(student.shape[-1], teacher.shape[-1]), student.device)


def _descending_order(rows: Tensor) -> Tensor:
    """``rows.argsort(descending=True)``."""
    if rows.device.type != "cpu":
        return rows.argsort(dim=-1, descending=True)
    return _in_threads(np.argsort, -rows)


def _descending(rows: Tensor) -> Tensor:
    """The rows' values, the largest first; ``rows`` may be overwritten."""
    if rows.device.type != "cpu":
        return rows.sort(dim=-1, descending=True).values
    return _in_threads(np.sort, rows.neg_()).neg_()


def _in_threads(sort: Callable[[np.ndarray], np.ndarray], rows: Tensor) -> Tensor:
    """NumPy's sorting of the rows, which compares several entries at a time as torch's does not on a CPU."""
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        parts = threads.map(sort, np.array_split(rows.numpy(), torch.get_num_threads()))
        return torch.from_numpy(np.concatenate(list(parts)))


def _signs(difference: Tensor, order: Tensor) -> Tensor:
    """Of the student's entries, each at its token, ``[N, V_s]`` int8."""
    own = difference[:, : order.shape[-1]].sign().to(torch.int8)
    return torch.empty_like(own).scatter_(1, order, own)


def _difference(ours: Tensor, theirs: Tensor) -> Tensor:
    """``ours - theirs`` with the narrower of the two filled up with zeros."""
    width = max(ours.shape[-1], theirs.shape[-1])
    difference = torch.nn.functional.pad(ours, (0, width - ours.shape[-1]))
    difference[:, : theirs.shape[-1]] -= theirs
    return difference
