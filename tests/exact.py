"""What the solver is held against: softmaxes and divergences in float64, one candidate at a time, by definition."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from logitfusion.fusion import SolvedWeights

PAPER = [tenth / 10 for tenth in range(21)]
# What the solver relies on: errors of at most 5e-6 and 2e-5 of the divergence.
ABSOLUTE, RELATIVE = 5e-6, 2e-5
RESOLUTION = 2e-6  # of the chosen weight's distance to the targets, relative above 1


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


def assert_best(
    solved: SolvedWeights,
    large: Tensor,
    base: Tensor,
    experts: Tensor,
    selection: str,
    weights: Sequence[float] = PAPER,
) -> None:
    """The chosen candidate's float64 distance to the targets is the lowest, to within the resolution."""
    shift, weight = shift_of(base, experts), solved.weights.sum(0)
    if selection in ("pooled", "judged"):
        shift = torch.einsum("tn,tnv->nv", solved.weights.double() / weight.clamp(min=1e-9), shift)[None]
        # A weight of 0 hides the shares; any would do to say that it is best, so those rows are left to other tests.
        kept = weight > 0
        large, base, shift, weight = large[kept], base[kept], shift[:, kept], weight[kept]
        loss, ray = solved.loss[kept], torch.zeros(int(kept.sum()), dtype=torch.long)
    else:
        loss, ray = solved.loss, solved.expert.clamp(min=0)
    found = losses(large, base, shift, list(weights), selection)
    position = (weight[:, None] - torch.tensor(weights)).abs().argmin(-1)
    chosen = found[position, ray, torch.arange(len(ray))]
    chosen = torch.where(weight == 0, found[0].amin(0), chosen)
    scale = targets(base, shift).amax((0, 1)).clamp(min=1)
    gap = (chosen.sqrt() - found.amin((0, 1)).sqrt()) / scale
    assert (gap <= RESOLUTION).all(), gap.max()
    wrong = (loss.double().sqrt() - chosen.sqrt()).abs()
    allowed = math.sqrt(2 * len(shift)) * (ABSOLUTE + RELATIVE * (chosen.sqrt() + scale))
    assert (wrong <= allowed).all(), (wrong / allowed).max()
