"""The graph term and the token term between a student's predictions and a teacher's.

The one implementation of both over the top-k: the losses from logits (``losses``) and the objective of a training on
cached teachers (``objective``) come here with the predictions of all positions that count.
"""

from __future__ import annotations

import torch
from torch import Tensor

from logitfusion.distill.alignment import SIDES, check_groups, group_factors, pair_in_order
from logitfusion.distill.bounds import BOUNDS, LARGEST, gromov_bound
from logitfusion.distill.graph import NORMALISATIONS, build_graph, node_features
from logitfusion.distill.predictions import Predictions

# The first is the default.
DISTANCES = ("sorted", *BOUNDS)


def gld_of_predictions(
    ours: Predictions,
    theirs: Predictions,
    *,
    k: int,
    nodes: str,
    signal: str,
    mask: Tensor | None = None,
    normalize: str = NORMALISATIONS[0],
    distance: str = DISTANCES[0],
    order: int = 2,
) -> Tensor:
    """GLD of each text, ``[B]``, 0 where ``mask`` (``[B]`` bool) is False or a side has no position of it.

    The other arguments are those of ``logitfusion.distill.gld_loss``.
    """
    dtype = ours.log_probs.dtype
    counted = (ours.counts > 0) & (theirs.counts > 0)
    texts = (counted if mask is None else mask & counted).nonzero()[:, 0]
    summarise = node_features if distance == "sorted" else build_graph
    sides = [
        [summarise(*text, normalize=normalize).to(dtype) for text in _split(side, texts.tolist(), k, nodes, signal)]
        for side in (ours, theirs)
    ]
    if distance == "sorted":
        losses = [sorted_l1(*pair) for pair in zip(*sides, strict=True)]
    else:
        losses = [gromov_bound(*_filled_up(*pair), bound=distance, order=order) for pair in zip(*sides, strict=True)]
    by_text = ours.log_probs.new_zeros(len(ours.counts))
    return by_text.index_add(0, texts, torch.stack(losses)) if losses else by_text


def sorted_l1(first: Tensor, second: Tensor) -> Tensor:
    """``sum_i |first_(i) - second_(i)|`` of ``[n]`` and ``[m]``, the shorter filled up with zeros."""
    size = max(len(first), len(second))
    first, second = (
        torch.nn.functional.pad(part, (0, size - len(part))).sort(descending=True).values for part in (first, second)
    )
    return (first - second).abs().sum()


def uld_of_predictions(
    ours: Predictions,
    theirs: Predictions,
    groups: Tensor | None = None,
    *,
    k: int,
    signal: str = "prob",
) -> Tensor:
    """Top-k ULD of each text, ``[B]``: sorted L1 of merged distributions, summed over the text's groups.

    Args:
        ours, theirs: of the same B texts.
        groups: ``[G, 4]`` int64, positions of the whole batch: student's first and last, teacher's first and last;
            None pairs positions in order and cuts the longer text.
        k: entries of each distribution.
        signal: ``"prob"``; others only without groups, as only probabilities multiply.
    """
    if groups is None:
        groups = pair_in_order(ours.counts, theirs.counts)
    for side, predictions in zip(SIDES, (ours, theirs), strict=True):
        check_groups(groups, side, len(predictions.ids))
    texts = ours.texts[groups[:, 1]]
    merged = [_merge(side, groups, name, k, signal) for side, name in ((ours, "student"), (theirs, "teacher"))]
    losses = (merged[0] - merged[1].to(merged[0].dtype)).abs().sum(-1)
    return losses.new_zeros(len(ours.counts)).index_add(0, texts, losses)


def _split(side: Predictions, texts: list[int], k: int, nodes: str, signal: str) -> list[tuple[Tensor, Tensor | None]]:
    """Signals of some texts, and their ids where nodes are of the vocabulary."""
    counts = side.counts.tolist()
    values, ids = side.signals(signal, k).split(counts), side.ids[:, :k].split(counts)
    return [(values[text], ids[text] if nodes == "vocab" else None) for text in texts]


def _merge(side: Predictions, groups: Tensor, name: str, k: int, signal: str) -> Tensor:
    """The merged distribution of each group, ``[G, k]``: its last one, times the probability of its earlier tokens."""
    values = side.signals(signal, k)[groups[:, 1 if name == "student" else 3]]
    if signal != "prob":
        return values
    return values * group_factors(side.label_log_probs, groups, name).exp()[:, None]


def _filled_up(*graphs: Tensor) -> list[Tensor]:
    """The graphs with isolated nodes, as many as the largest has."""
    size = max(map(len, graphs))
    if size > LARGEST:
        raise ValueError(f'bounds are for graphs of at most {LARGEST} nodes, not {size}: use distance="sorted"')
    return [torch.nn.functional.pad(graph, (0, size - len(graph)) * 2) for graph in graphs]
