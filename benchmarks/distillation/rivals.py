"""Losses between a student's logits and a teacher's top-k as they are written without much thought."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad


def user_sft(student: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits ``[B, L, V]`` in fp32, as trainers have it."""
    return cross_entropy(student.float()[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def dense_collation(student: Tensor, log_probs: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy against a teacher's top-k ``[N, k]``, laid out over all of the vocabulary (as FuseLLM collates)."""
    ours = student.float().flatten(0, 1)[: len(ids)]
    target = torch.zeros_like(ours).scatter_(1, ids, log_probs.exp())
    return -(target * ours.log_softmax(-1)).sum(-1).mean()


def gld_as_printed(student: Tensor, log_probs: Tensor, ids: Tensor, nodes: str = "vocab") -> Tensor:
    """GLD of one text ``[1, L, V]`` with both graphs built, of log-probabilities, divided by positions and k.

    In float64 this is the definition that gradients are held against.
    """
    ours, found = student[0, : len(ids)].log_softmax(-1).topk(ids.shape[1])
    sides = [_sorted_row_sums(ours, found, nodes), _sorted_row_sums(log_probs, ids, nodes)]
    size = max(map(len, sides))
    return (pad(sides[0], (0, size - len(sides[0]))) - pad(sides[1], (0, size - len(sides[1])))).abs().sum()


def _sorted_row_sums(values: Tensor, ids: Tensor, nodes: str) -> Tensor:
    matrix = values
    if nodes == "vocab":
        channels, place = ids.unique(return_inverse=True)
        matrix = values.new_zeros(len(values), len(channels)).scatter(1, place, values)
    graph = matrix.T @ matrix / values.numel()
    return graph.sum(1).sort(descending=True).values
