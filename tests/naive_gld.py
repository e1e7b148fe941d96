"""What the distillation losses are held against: the definitions in float64, with whole graphs, one text at a time."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def signals(logits: Tensor, signal: str) -> Tensor:
    logits = logits.double()
    return {"logit": logits, "logprob": logits.log_softmax(-1), "prob": logits.softmax(-1)}[signal]


def matrix(logits: Tensor, k: int, nodes: str, signal: str) -> Tensor:
    """``Z`` of one text: ``[L, V]`` with zeros outside the top-k, or ``[L, k]``."""
    rows = []
    for row in signals(logits, signal):
        best = row.detach().argsort(descending=True)[:k]
        rows.append(row[best] if nodes == "rank" else torch.zeros_like(row).index_put((best,), row[best]))
    return torch.stack(rows)


def features(logits: Tensor, k: int, nodes: str, signal: str) -> Tensor:
    """Row sums of the graph, built as a sum of outer products; divided by positions and k."""
    graph = sum(torch.outer(row, row) for row in matrix(logits, k, nodes, signal))
    return graph.sum(1) / (len(logits) * k)


def gld(student: Tensor, teacher: Tensor, k: int, nodes: str = "vocab", signal: str = "prob") -> Tensor:
    """The loss of one text, ``[L, V]`` and ``[L', V']``."""
    found, expected = features(student, k, nodes, signal), features(teacher, k, nodes, signal).detach()
    found, expected = (part[part.argsort(descending=True)] for part in filled(found, expected))
    return (found - expected).abs().sum()


def filled(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    size = max(len(first), len(second))
    return tuple(torch.cat([part, part.new_zeros(size - len(part))]) for part in (first, second))


def uld(student: Tensor, teacher: Tensor, k: int | None = None) -> Tensor:
    """The sum over the positions that both texts have."""
    total = torch.zeros((), dtype=torch.float64)
    for ours, theirs in zip(student, teacher, strict=False):
        found, expected = filled(signals(ours, "prob"), signals(theirs, "prob").detach())
        found, expected = (part[part.argsort(descending=True)] for part in (found, expected))
        total = total + (found - expected)[:k].abs().sum()
    return total


def gromov(first: Tensor, second: Tensor, order: int) -> float:
    """The least objective over all permutations, to the power ``order``: exact for positive semi-definite graphs."""
    size = len(first)
    found = min(
        (first - second[list(places)][:, list(places)]).abs().pow(order).mean().item()
        for places in itertools.permutations(range(size))
    )
    return found ** (1 / order)
