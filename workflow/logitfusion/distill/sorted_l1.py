"""Sorted L1 between whole vocabularies, without the order in which either is sorted.

Sorting the values alone takes half the time of sorting them with their places, and half the memory again. The gradient
needs no place: on which side of the teacher's entry of the same rank a token's probability is, is a step function of
its logit with few steps, because two sorted curves cross seldom. Only these steps are kept for the backward pass. Of
models that are nearly equal the curves cross everywhere: then each token's side is kept, one byte a token.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from logitfusion.distill.selection import chunks, log_normaliser, shifted_exp, working_dtype

# A row of more crossings than this, and than one in so many tokens, is kept token by token.
_FEW, _SELDOM = 64, 128


class SortedL1(torch.autograd.Function):
    """``sum_i |f p_(i) - g q_(i)|`` over the sorted probabilities of whole vocabularies, of pairs of positions.

    The shorter vocabulary is filled up with tokens of probability 0. Applied to student ``[B, L, V_s]``, teacher
    ``[B, L', V_t]``, the places ``[N, 3]`` of the pairs (sequence, student's position, teacher's position), and the
    logarithms of f and g, ``[N, 2]``; gives ``[N]``. Gradients flow to the student and to the logarithm of f. Tokens
    of one probability have one gradient, the mean of what they would have in any order, where the curves cross seldom.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, student: Tensor, teacher: Tensor, pairs: Tensor, factors: Tensor
    ) -> Tensor:
        dtype = working_dtype(student.dtype)
        losses = torch.empty(len(pairs), dtype=dtype, device=student.device)
        norms = torch.empty(len(pairs), 1, dtype=dtype, device=student.device)
        factors, steps = factors.to(dtype).exp(), []
        ctx.chunks = list(chunks(len(pairs), max(student.shape[-1], teacher.shape[-1]), student.device))
        for part in ctx.chunks:
            where = pairs[part, 0], pairs[part, 1]
            rows = _sorted(student[where].to(dtype))
            norms[part] = log_normaliser(rows, rows[:, -1:])
            theirs = _sorted(teacher[pairs[part, 0], pairs[part, 2]].to(dtype))
            theirs = shifted_exp(theirs, log_normaliser(theirs, theirs[:, -1:]))
            ours = shifted_exp(rows, norms[part]).mul_(factors[part, :1])
            difference = _difference(ours, theirs.mul_(factors[part, 1:]))
            losses[part] = difference.abs().sum(-1)
            steps += _sides(rows, difference, lambda where=where: student[where].to(dtype))
        ctx.save_for_backward(student, pairs, factors[:, :1], norms, *steps)
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> tuple[Tensor, None, None, Tensor]:
        student, pairs, factors, norms, *steps = ctx.saved_tensors
        gradient = torch.zeros_like(student, memory_format=torch.contiguous_format)
        upstream = factors * upstream[:, None]
        of_factors = pad(torch.zeros_like(upstream), (0, 1))
        for part, edges, levels in zip(ctx.chunks, steps[::2], steps[1::2], strict=True):
            where = pairs[part, 0], pairs[part, 1]
            rows = student[where].to(norms.dtype)
            ours = shifted_exp(rows, norms[part])
            slope = _sides_at(rows, ours, edges, levels, norms[part]) * ours
            total = slope.sum(-1, keepdim=True)
            slope.sub_(ours.mul_(total)).mul_(upstream[part])
            gradient[where] = slope.to(gradient.dtype)
            of_factors[part, :1] = total * upstream[part]
        return gradient, None, None, of_factors


class SortedL1OfRows(torch.autograd.Function):
    """``sum_i |p_(i) - q_(i)|`` of given probabilities ``[n, U]`` and ``[n, U']``; gives ``[n]``, see ``SortedL1``."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, student: Tensor, teacher: Tensor) -> Tensor:
        rows = _sorted(pad(student, (0, 1)))  # a token of probability 0, as there may be no other
        difference = _difference(rows.clone(), _sorted(teacher.clone()))
        ctx.save_for_backward(student, *_sides(rows, difference, lambda: pad(student, (0, 1))))
        return difference.abs().sum(-1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> tuple[Tensor, None]:
        student, edges, levels = ctx.saved_tensors
        return _sides_at(student, student, edges, levels) * upstream[:, None], None


def _sorted(rows: Tensor) -> Tensor:
    """The rows' values, the least first; ``rows`` may be overwritten."""
    if rows.device.type != "cpu":
        return rows.sort(dim=-1).values
    _in_threads(np.ndarray.sort, rows.numpy())  # compares several entries at a time, as torch does not
    return rows


def _difference(ours: Tensor, theirs: Tensor) -> Tensor:
    """``ours - theirs``, least first, the narrower of the two filled up with zeros; ``ours`` may be overwritten."""
    difference = pad(ours, (theirs.shape[-1] - ours.shape[-1], 0)) if theirs.shape[-1] > ours.shape[-1] else ours
    difference[:, difference.shape[-1] - theirs.shape[-1] :] -= theirs
    return difference


def _sides(values: Tensor, difference: Tensor, unsorted: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """On which side of the teacher each of the student's values is: ``_steps``, or signs in their order and nothing."""
    signs = difference[:, -values.shape[1] :].sign().to(torch.int8)
    crossings = (signs[:, 1:] != signs[:, :-1]).sum(1).max()
    if crossings <= max(_FEW, values.shape[1] // _SELDOM):
        return _steps(values, signs)
    return signs.scatter(1, _order(unsorted()), signs), signs.new_empty(0)


def _order(rows: Tensor) -> Tensor:
    if rows.device.type != "cpu":
        return rows.argsort(dim=-1)
    order = torch.empty(rows.shape, dtype=torch.int64)
    _in_threads(lambda part, found: np.copyto(found, part.argsort()), rows.numpy(), order.numpy())
    return order


def _steps(values: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
    """``signs`` as a function of ``values``, its mean where values are equal.

    Args:
        values: ``[n, V]``, each row ascending.
        signs: ``[n, V]`` int8.

    Returns:
        Edges, ascending, and levels, ``[n, T]`` both: from each edge on up to the next, the function has this level.
        Some edges are there twice.
    """
    begins = pad(signs[:, 1:] != signs[:, :-1], (1, 0), value=True)
    rows, places = begins.nonzero().T
    counts = begins.sum(1)
    columns = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    starts = counts.new_full((len(values), int(counts.max())), values.shape[1] - 1)
    starts[rows, columns] = places
    edges = values.gather(1, starts)
    # Where equal values have several signs, they have their mean: another step begins behind them.
    behind = torch.searchsorted(values, edges, right=True).clamp_(max=values.shape[1] - 1)
    edges = torch.cat([edges, values.gather(1, behind)], dim=1).sort(dim=1).values
    first, end = torch.searchsorted(values, edges), torch.searchsorted(values, edges, right=True)
    sums = pad(signs.cumsum(1, dtype=torch.int32), (1, 0))
    return edges, (sums.gather(1, end) - sums.gather(1, first)).to(values.dtype) / (end - first)


def _sides_at(values: Tensor, chances: Tensor, edges: Tensor, levels: Tensor, shift: Tensor | None = None) -> Tensor:
    """What ``_sides`` says of values in any order, ``[n, V]``; their probabilities are of logits minus the shift."""
    if not levels.numel():
        return edges[:, : values.shape[1]]
    if values.device.type != "cpu":
        return levels.gather(1, (torch.searchsorted(edges, values, right=True) - 1).clamp_(min=0))
    found, starts = torch.empty_like(values), edges if shift is None else shifted_exp(edges, shift)
    _in_threads(_look_up, *(part.numpy() for part in (values, chances, edges, starts, levels, found)))
    return found


def _look_up(*arrays: np.ndarray) -> None:
    """Steps at values by a table over the first 16 bits of the chances; who has those of an edge, or nearly, searches.

    A binary search for all takes several times as long, as no processor foretells its branches. The bits of numbers
    that are not negative are in their order. An exponential that is rounded otherwise than an equal one is at most in
    the next place of the table.
    """
    chances = arrays[1]
    integers, shift = np.dtype(f"u{chances.itemsize}"), 8 * chances.itemsize - 16
    size = int(np.ones(1, chances.dtype).view(integers)[0] >> shift) + 2
    table = np.full(size + 1, np.nan, chances.dtype)  # the last is for what is no number
    for values, keys, edges, starts, levels, found in zip(*arrays, strict=True):
        starts = np.maximum.accumulate(np.minimum(starts.view(integers) >> shift, size).astype(np.intp))
        table[:size] = np.repeat(levels, np.diff(starts[1:], prepend=0, append=size))
        for near in (-1, 0, 1):
            table[np.clip(starts[1:] + near, 0, size)] = np.nan
        np.take(table, keys.view(integers) >> shift, out=found, mode="clip")
        unsure = np.isnan(found).nonzero()[0]
        found[unsure] = levels[np.searchsorted(edges, values[unsure], side="right") - 1]


def _in_threads(function: Callable[..., None], *arrays: np.ndarray) -> None:
    """A function of NumPy, which leaves the other threads alone meanwhile, on some of the rows in each thread."""
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(function, *(np.array_split(array, threads) for array in arrays)))
