"""Parts of the logits of a long text, a few positions at a time.

Logits ``[B, L, V]`` are the largest thing in memory by far, so nothing here makes another tensor of their size except
the gradient with respect to them. Temporaries are fp32 (float64 for float64 logits) and of a chunk of positions.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Numbers in a chunk of positions: about 16 MB of fp32 for each temporary.
_CHUNK = 4_000_000


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp32 for everything but float64: sums over a text leave the range of fp16 and the precision of bf16."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def chunks(length: int, width: int) -> Iterator[slice]:
    """Slices of ``length`` rows of ``width`` numbers each."""
    step = max(1, _CHUNK // max(width, 1))
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


@torch.no_grad()
def top_ids(logits: Tensor, k: int) -> Tensor:
    """The ids of the k largest logits of every position, largest first: ``[B, L, V] -> [B, L, k]`` int64."""
    batch, length, vocabulary = logits.shape
    ids = torch.empty(batch, length, k, dtype=torch.int64, device=logits.device)
    for part in chunks(length, batch * vocabulary):
        ids[:, part] = logits[:, part].topk(k).indices
    return ids


def log_normaliser(logits: Tensor) -> Tensor:
    """``logsumexp`` over the vocabulary, and 0 where every entry is -inf, so that each probability there is 0."""
    norm = logits.logsumexp(-1, keepdim=True)
    return norm.masked_fill(norm.isneginf(), 0.0)


def log_probabilities_at(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities of the tokens ``ids``.

    The only thing kept for the gradient beside the inputs is one number a position.

    Args:
        logits: ``[B, L, V]``, any float type.
        ids: ``[B, L, n]`` int64, of a position all different.
        mask: ``[B, L]`` bool; where False the gradient is 0 whatever the logits are, NaN too.

    Returns:
        ``[B, L, n]``, fp32 (float64 for float64 logits).
    """
    return _LogProbabilitiesAt.apply(logits, ids, mask)


class _LogProbabilitiesAt(torch.autograd.Function):
    """Autograd of slices would make a tensor as large as all logits for each of them; this writes the one gradient."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        batch, length, vocabulary = logits.shape
        dtype = working_dtype(logits.dtype)
        norm = torch.empty(batch, length, 1, dtype=dtype, device=logits.device)
        for part in chunks(length, batch * vocabulary):
            norm[:, part] = log_normaliser(logits[:, part].to(dtype))
        ctx.save_for_backward(logits, ids, mask, norm)
        return logits.gather(2, ids).to(dtype) - norm

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> tuple[Tensor, None, None]:
        logits, ids, mask, norm = ctx.saved_tensors
        batch, length, vocabulary = logits.shape
        gradient = torch.empty_like(logits, memory_format=torch.contiguous_format)
        for part in chunks(length, batch * vocabulary):
            rows = (logits[:, part].to(norm.dtype) - norm[:, part]).exp_()
            rows *= -upstream[:, part].sum(-1, keepdim=True)
            rows.scatter_add_(2, ids[:, part], upstream[:, part])
            gradient[:, part] = rows.masked_fill_(~mask[:, part, None], 0.0)
        return gradient, None, None


class SortedL1(torch.autograd.Function):
    """``sum_i |p_(i) - q_(i)|`` over the sorted probabilities of whole vocabularies, of pairs of positions.

    Kept sorting orders would be larger than the logits, so the backward pass sorts anew. The shorter vocabulary is
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
    return chunks(len(pairs), max(student.shape[-1], teacher.shape[-1]))


def _sorted_pair(student: Tensor, teacher: Tensor, pairs: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """Probabilities in descending order, and that order, of the student and of the teacher."""
    dtype = working_dtype(student.dtype)
    rows = (student[pairs[:, 0], pairs[:, 1]].to(dtype), teacher[pairs[:, 0], pairs[:, 2]].to(dtype))
    return tuple((row - log_normaliser(row)).exp_().sort(dim=-1, descending=True) for row in rows)


def _difference(ours: Tensor, theirs: Tensor) -> Tensor:
    """``ours - theirs`` with the narrower of the two filled up with zeros."""
    width = max(ours.shape[-1], theirs.shape[-1])
    difference = torch.nn.functional.pad(ours, (0, width - ours.shape[-1]))
    difference[:, : theirs.shape[-1]] -= theirs
    return difference
