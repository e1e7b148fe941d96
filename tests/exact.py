"""What the solver is held against: softmaxes and divergences in float64, one candidate at a time, by definition."""

from __future__ import annotations

import torch
from torch import Tensor


def shift_of(base: Tensor, experts: Tensor) -> Tensor:
    return experts.double() - base.double()


def divergences(base: Tensor, shift: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """``KL(p_w || p)`` and ``KL(p || p_w)`` of ``p_w = softmax(base + weight shift)``; -inf entries take no part."""
    log_p = base.double().log_softmax(-1)
    log_q = (log_p + weight * shift.double()).log_softmax(-1)
    ratio = torch.where(log_p.isneginf(), 0.0, log_q - log_p)
    return (log_q.exp() * ratio).sum(-1), -(log_p.exp() * ratio).sum(-1)


def on_grid(base: Tensor, shift: Tensor, weights: list[float]) -> Tensor:
    """Both divergences of every weight, ``[2, K, R, n]``."""
    return torch.stack([torch.stack(divergences(base, shift, weight)) for weight in weights], dim=1)


def targets(base: Tensor, shift: Tensor) -> Tensor:
    """``KL(Q_t || Q)`` and ``KL(Q || Q_t)``, ``[2, T, n]``."""
    return torch.stack(divergences(base, shift, 1.0))


def losses(large: Tensor, base: Tensor, shift: Tensor, weights: list[float], selection: str = "matched") -> Tensor:
    """The loss of every candidate, ``[K, R, n]``: against the own target, or with ``one_hot`` against those of all."""
    found, expected = on_grid(large, shift, weights), targets(base, shift)
    if selection == "one_hot":
        return (found[:, :, :, None] - expected[:, None, None]).square().sum((0, 3))
    return (found - expected[:, None]).square().sum(0)


def opinions(large: Tensor, experts: Tensor) -> Tensor:
    """How likely the large model finds what each expert would say, ``sum_v Q_t(v) log P(v)``: ``[T, n]``."""
    log_p, q = large.double().log_softmax(-1), experts.double().softmax(-1)
    return torch.where(q > 0, q * log_p, 0.0).sum(-1)
