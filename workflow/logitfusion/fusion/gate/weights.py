"""The weights that a gate gives."""

from __future__ import annotations

import torch
from torch import Tensor

from logitfusion.config.gate import Gate
from logitfusion.fusion.gate.features import FEATURES, measure


def weigh(gate: Gate, large: Tensor, base: Tensor, shift: Tensor) -> Tensor:
    """The experts' weights ``[T, n]``.

    Args:
        large, base: logits ``[n, V]`` fp32, -inf where an entry takes no part.
        shift: ``expert - base`` of every expert, ``[T, n, V]``, 0 where an entry takes no part.
    """
    if (not gate.features and not gate.relative) or not gate.largest:
        score = torch.full(shift.shape[:2], gate.bias, device=large.device)
    else:
        score = find_score(gate, measure(large, base, shift))
    return gate.largest * score.sigmoid()


def find_score(gate: Gate, measured: Tensor) -> Tensor:
    """The score ``[T, n]`` of features ``[F, T, n]``."""
    score = torch.full_like(measured[0], gate.bias)
    for place, name in enumerate(FEATURES):
        for part, found in ((gate.features, measured[place]), (gate.relative, make_relative(measured[place]))):
            if name in part:
                score += part[name].weight * (found - part[name].mean) / part[name].scale
    return score


def make_relative(measured: Tensor) -> Tensor:
    """Features ``[..., T, n]`` less their means over the experts."""
    return measured - measured.mean(-2, keepdim=True)
