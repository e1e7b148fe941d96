"""Sorted L1 between whole vocabularies, without the order in which either is sorted.

Sorting the values alone takes half the time of sorting them with their places, and half the memory again. The gradient
needs no place: on which side of the teacher's entry of the same rank a token's probability is, is a step function of
that probability with few steps, because two sorted curves cross seldom. Only these steps are kept for the backward
pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from logitfusion.distill.selection import chunks, log_normaliser, shifted_exp, working_dtype


class SortedL1(torch.autograd.Function):
    """``sum_i |f p_(i) - g q_(i)|`` over the sorted probabilities of whole vocabularies, of pairs of positions.

    The shorter vocabulary is filled up with tokens of probability 0. Applied to student ``[B, L, V_s]``, teacher
    ``[B, L', V_t]``, the places ``[N, 3]`` of the pairs (sequence, student's position, teacher's position), and the
    logarithms of f and g, ``[N, 2]``; gives ``[N]``. Gradients flow to the student and to the logarithm of f. Tokens
    of one probability have one gradient, the mean of what they would have in any order.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, student: Tensor, teacher: Tensor, pairs: Tensor, factors: Tensor
    ) -> Tensor:
        dtype = working_dtype(student.dtype)
        losses = torch.empty(len(pairs), dtype=dtype, device=student.device)
        norms = torch.empty(len(pairs), 1, dtype=dtype, device=student.device)
        factors, steps = factors.to(dtype).exp(), []
        for part in _chunks(pairs, student, teacher):
            rows = student[pairs[part, 0], pairs[part, 1]].to(dtype)
            norms[part] = log_normaliser(rows)
            ours = _sorted(shifted_exp(rows, norms[part]))
            rows = teacher[pairs[part, 0], pairs[part, 2]].to(dtype)
            theirs = _sorted(shifted_exp(rows, log_normaliser(rows)))
            difference = _difference(ours * factors[part, :1], theirs.mul_(factors[part, 1:]))
            losses[part] = difference.abs().sum(-1)
            steps += _steps(ours, difference[:, -ours.shape[1] :].sign().to(torch.int8))
        ctx.save_for_backward(student, teacher, pairs, factors[:, :1], norms, *steps)
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> tuple[Tensor, None, None, Tensor]:
        student, teacher, pairs, factors, norms, *steps = ctx.saved_tensors
        gradient = torch.zeros_like(student, memory_format=torch.contiguous_format)
        upstream = factors * upstream[:, None]
        of_factors = pad(torch.zeros_like(upstream), (0, 1))
        for part, edges, levels in zip(_chunks(pairs, student, teacher), steps[::2], steps[1::2], strict=True):
            where = pairs[part, 0], pairs[part, 1]
            ours = shifted_exp(student[where].to(norms.dtype), norms[part])
            slope = ours * _levels_at(ours, edges, levels)
            total = slope.sum(-1, keepdim=True)
            slope -= ours * total
            gradient[where] = (slope * upstream[part]).to(gradient.dtype)
            of_factors[part, :1] = total * upstream[part]
        return gradient, None, None, of_factors


def _chunks(pairs: Tensor, student: Tensor, teacher: Tensor) -> Iterator[slice]:
    return chunks(len(pairs), max(student.shape[-1], teacher.shape[-1]), student.device)


def _sorted(rows: Tensor) -> Tensor:
    """The rows' values, the least first; ``rows`` may be overwritten."""
    if rows.device.type != "cpu":
        return rows.sort(dim=-1).values
    _in_threads(np.ndarray.sort, rows.numpy())  # compares several entries at a time, as torch does not
    return rows


def _difference(ours: Tensor, theirs: Tensor) -> Tensor:
    """``ours - theirs``, least first, the narrower of the two filled up with zeros; ``ours`` may be overwritten."""
    difference = pad(ours, (theirs.shape[-1] - ours.shape[-1], 0)) if theirs.shape[-1] > ours.shape[-1] else ours
    difference[:, -theirs.shape[-1] :] -= theirs
    return difference


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


def _levels_at(values: Tensor, edges: Tensor, levels: Tensor) -> Tensor:
    """The step functions of ``_steps`` at their values in any order, ``[n, V]``."""
    if values.device.type != "cpu":
        return levels.gather(1, (torch.searchsorted(edges, values, right=True) - 1).clamp_(min=0))
    found = torch.empty_like(values)
    _in_threads(_look_up, *(part.numpy() for part in (values, edges, levels, found)))
    return found


def _look_up(values: np.ndarray, edges: np.ndarray, levels: np.ndarray, found: np.ndarray) -> None:
    """``_levels_at``, by a table over the first 16 bits of the values; only those that share these with an edge search.

    A binary search takes several times as long, as branches can't be foretold. Values are not negative, so that their
    bits are in their order.
    """
    integers, shift = np.dtype(f"u{values.itemsize}"), 8 * values.itemsize - 16
    size = int(np.ones(1, values.dtype).view(integers)[0] >> shift) + 1  # no probability is above 1
    table = np.full(size + 1, np.nan, values.dtype)  # the last is for values that are no numbers
    for row, bounds, heights, out in zip(values, edges, levels, found, strict=True):
        starts = np.minimum(bounds.view(integers) >> shift, size).astype(np.intp)
        table[:size] = np.repeat(heights, np.diff(starts[1:], prepend=0, append=size))
        table[starts[1:]] = np.nan
        np.take(table, row.view(integers) >> shift, out=out, mode="clip")
        unsure = np.isnan(out).nonzero()[0]
        out[unsure] = heights[np.searchsorted(bounds, row[unsure], side="right") - 1]


def _in_threads(function: Callable[..., None], *arrays: np.ndarray) -> None:
    """A function of NumPy, which leaves the other threads alone meanwhile, on some of the rows in each thread."""
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(function, *(np.array_split(array, threads) for array in arrays)))
