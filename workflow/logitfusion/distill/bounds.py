"""Lower and upper bounds of the Gromov-Wasserstein distance of two small graphs.

``GW_r(C, D) = min_pi (sum_ijkl |C_ik - D_jl|^r pi_ij pi_kl)^(1/r)`` over couplings pi of uniform weights, without the
factor 1/2 that some texts have. The sorted row sums of InfiGFusion (arXiv 2505.13893) are the first of the lower bounds
(Memoli 2011, "Gromov-Wasserstein distances and the metric approach to object matching"), which was derived
here and is not in its paper.

Graphs of n and m nodes are compared after every node is split into equal copies, up to the least common multiple: GW
and all bounds stay the same, as weights are uniform, and the couplings that bounds use become permutations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from logitfusion.distill.selection import working_dtype
from logitfusion.tensors import check_floats

LOWER = ("flb", "slb", "tlb")
UPPER = ("sorted_plan", "spread")
BOUNDS = LOWER + UPPER

# Nodes after splitting: 16 MB for each fp32 matrix.
LARGEST = 2048


def gromov_bound(first: Tensor, second: Tensor, *, bound: str, order: int = 2) -> Tensor:
    """A bound of ``GW_order`` between two graphs.

    Args:
        first: symmetric matrix ``[n, n]``, any float type, for example ``Z^T Z``.
        second: symmetric matrix ``[m, m]``.
        bound: lower ones, each O(n^2 log n) but the third:
            ``"flb"``, Wasserstein distance of the row means (with n = m and order 1, GLD as published is n^2 times it);
            ``"slb"``, Wasserstein distance of all entries;
            ``"tlb"``, optimal assignment of rows by the Wasserstein distance of their entries, O(n^3): never less than
            the other two. Needs scipy.
            Upper ones:
            ``"sorted_plan"``, the objective itself where nodes are matched by sorted row sums (the first step of
            Frank-Wolfe from the product coupling, for order 2);
            ``"spread"``, ``flb + delta(C) + delta(D)``, delta the distance of entries from their row's mean.
        order: 1 or 2; r above.

    Returns:
        A scalar, not raised to the power r; fp32, or float64 where a graph is. Gradients flow through the entries, not
        through orders and assignments.

    Raises:
        TypeError: matrices that are no tensors of floating-point numbers.
        ValueError: matrices that are not square or empty, an unknown bound or order, or more than 2,048 nodes after
            splitting.
        ImportError: ``"tlb"`` without scipy.
    """
    if bound not in BOUNDS or order not in (1, 2):
        raise ValueError(f"bound is one of {BOUNDS} and order 1 or 2, not {bound!r} and {order!r}")
    check_floats(first=first, second=second)
    first, second = _common_size(first, second)
    means = first.mean(1), second.mean(1)
    if bound == "slb":
        return _distance(first.flatten(), second.flatten(), order)
    if bound == "tlb":
        return _third_lower_bound(first, second, order)
    if bound == "sorted_plan":
        places = [mean.argsort(descending=True) for mean in means]
        first, second = (graph[place][:, place] for graph, place in zip((first, second), places, strict=True))
        return _norm(first - second, order)
    lowest = _distance(*means, order)
    if bound == "flb":
        return lowest
    spreads = (_norm(graph - mean[:, None], order) for graph, mean in zip((first, second), means, strict=True))
    return lowest + sum(spreads)


def _common_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both graphs with as many nodes, each node split into equal copies, in the wider type."""
    for graph in (first, second):
        if graph.ndim != 2 or graph.shape[0] != graph.shape[1] or not len(graph):
            raise ValueError(f"a graph is a square matrix [n, n] with n > 0, not {tuple(graph.shape)}")
    size = math.lcm(len(first), len(second))
    if size > LARGEST:
        raise ValueError(
            f"graphs of {len(first)} and {len(second)} nodes need {size} after splitting, and bounds are for small"
            f" graphs, of at most {LARGEST}; fill the smaller graph up with isolated nodes"
        )
    dtype = working_dtype(torch.promote_types(first.dtype, second.dtype))
    return tuple(_split(graph.to(dtype), size // len(graph)) for graph in (first, second))


def _split(graph: Tensor, copies: int) -> Tensor:
    if copies == 1:  # which would copy the graph twice
        return graph
    return graph.repeat_interleave(copies, 0).repeat_interleave(copies, 1)


def _distance(first: Tensor, second: Tensor, order: int) -> Tensor:
    """The Wasserstein distance of equally many numbers."""
    return _norm(first.sort().values - second.sort().values, order)


def _norm(difference: Tensor, order: int) -> Tensor:
    return difference.abs().mean() if order == 1 else _root(difference.square().mean())


def _root(square: Tensor) -> Tensor:
    """The square root, with gradient 0 at 0 instead of infinity times 0."""
    return torch.where(square > 0, square, 1.0).sqrt().where(square > 0, 0.0 * square)


def _third_lower_bound(first: Tensor, second: Tensor, order: int) -> Tensor:
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ImportError('bound="tlb" solves an assignment with scipy: pip install scipy') from error
    first, second = first.sort(1).values, second.sort(1).values
    with torch.no_grad():
        cost = torch.stack([(row - second).abs().pow(order).mean(1) for row in first])
        rows, columns = (torch.as_tensor(part) for part in linear_sum_assignment(cost.cpu().numpy()))
    return _norm(first[rows.to(first.device)] - second[columns.to(first.device)], order)
