"""How much each expert steers, at every decoding step (Dynamic Logits Fusion, arXiv 2406.15480, eq. 5 and 6).

The search moves along rays: with ``D = expert - base``, the fused distributions ``P_a = softmax(large + a D)`` are a
one-parameter exponential family, so two scalars a candidate are enough for both divergences:

    A(a) = log E_0[exp(a D)],  m(a) = E_a[D]
    forward(a)  = KL(P_a || P_0) = a m(a) - A(a)
    backward(a) = KL(P_0 || P_a) = A(a) - a m(0)

``D`` is shifted so that ``m(0) = 0``; softmax does not see the shift. The targets ``KL(Q_t || Q)`` and ``KL(Q || Q_t)``
of the small models are the same two numbers at ``a = 1`` in the family whose base is the small base.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from logitfusion.fusion.logits import logit_shift

Bounds = tuple[float, float] | Sequence[tuple[float, float]]

RULES = ("grid", "newton")
SELECTIONS = ("one_hot", "matched")

# Divergences closer than this are the same number (fp32 terms, float64 sums); losses that differ by less are ties.
_RESOLUTION = 1e-7


@dataclass(frozen=True)
class SolvedWeights:
    """What ``solve_weights`` found.

    Attributes:
        weights: ``[T, ...]`` fp32, at most one of the T not zero.
        loss: ``[...]`` fp32, the squared distance to the targets at the chosen weights.
        expert: ``[...]`` int64, index of the expert that steers, -1 where all weights are 0.
    """

    weights: Tensor
    loss: Tensor
    expert: Tensor


def solve_weights(
    large: Tensor,
    base: Tensor,
    experts: Tensor,
    *,
    rule: str = "grid",
    selection: str = "one_hot",
    bounds: tuple[float, float] = (0.0, 2.0),
    step: float = 0.1,
    evidence: Tensor | None = None,
) -> SolvedWeights:
    """Choose the expert and its weight so that the large model moves as far as the small one did.

    Every choice minimises ``(KL(P~||P) - KL(Q_s||Q))^2 + (KL(P||P~) - KL(Q||Q_s))^2`` along the rays of the experts.

    Args:
        large: raw logits of the large model, ``[..., V]``, any float type; -inf entries are left out.
        base: raw logits of the small base, ``[..., V]``.
        experts: raw logits of the experts, ``[T, ..., V]``.
        rule: ``"grid"`` tries the multiples of ``step`` within ``bounds`` (the paper: 0.0, 0.1, ..., 2.0) and of equal
            losses keeps the lowest weight, then the lowest expert; ``"newton"`` refines the grid's answer to a
            continuous one, never with a greater loss.
        selection: ``"one_hot"``: the loss summed over the targets of all experts (the paper); ``"matched"``: each ray
            against the target of its own expert. With one expert they are the same.
        bounds: lowest and highest weight.
        step: the grid's distance.

    Raises:
        ValueError: shapes, rule, selection, bounds or step that can't be used.
    """
    if rule not in RULES:
        raise ValueError(f"rule is one of {RULES}, not {rule!r}")
    if selection not in SELECTIONS:
        raise ValueError(f"selection is one of {SELECTIONS}, not {selection!r}")
    if base.shape != large.shape or experts.shape[1:] != large.shape or len(experts) == 0:
        raise ValueError(
            "solve_weights needs large [..., V], base [..., V] and experts [T, ..., V] with T > 0, and was given"
            f" {tuple(large.shape)}, {tuple(base.shape)} and {tuple(experts.shape)}"
        )
    grid = make_grid(bounds, step).to(large.device)
    leading, vocabulary = large.shape[:-1], large.shape[-1]
    rows = math.prod(leading)
    flat_large, flat_base = large.reshape(rows, vocabulary), base.reshape(rows, vocabulary)
    flat_experts = experts.reshape(len(experts), rows, vocabulary)
    # About 4 million numbers at a time: a few temporaries of a chunk fit a CPU's cache or a corner of a GPU.
    chunk = max(1, 4_000_000 // (vocabulary * len(experts)))
    parts = [
        _solve_rows(
            flat_large[start : start + chunk],
            flat_base[start : start + chunk],
            flat_experts[:, start : start + chunk],
            grid,
            rule,
            selection,
        )
        for start in range(0, rows, chunk)
    ]
    if not parts:
        empty = torch.zeros(leading, device=large.device)
        return SolvedWeights(torch.zeros(len(experts), *leading, device=large.device), empty, empty.long() - 1)
    weight = torch.cat([part[0] for part in parts])
    loss = torch.cat([part[1] for part in parts])
    chosen = torch.cat([part[2] for part in parts])
    one_hot = torch.arange(len(experts), device=large.device)[:, None] == chosen
    weights = torch.where(one_hot, weight, torch.zeros((), device=large.device))
    expert = torch.where(weight == 0, -1, chosen)
    return SolvedWeights(weights.reshape(len(experts), *leading), loss.reshape(leading), expert.reshape(leading))


def make_grid(bounds: tuple[float, float], step: float) -> Tensor:
    """The candidates, fp32: the lowest weight and every multiple of the step above it, up to the highest weight.

    Raises:
        ValueError: bounds out of order, negative or infinite, or a step that is not positive.
    """
    low, high = bounds
    if not 0 <= low <= high < math.inf or not 0 < step < math.inf:
        raise ValueError(f"bounds must satisfy 0 <= low <= high and step be positive, not {bounds} and {step}")
    # 2.0 is the twentieth multiple of 0.1 although 2.0 / 0.1 may round to a little less.
    candidates = math.floor((high - low) / step + 1e-9) + 1
    return torch.tensor([low + step * k for k in range(candidates)], dtype=torch.float32)


def make_grids(bounds: Bounds, step: float, experts: int) -> Tensor:
    return make_grid(bounds, step)


class _Ray:
    """The exponential family of one base and one or more directions: its divergences at any weight."""

    def __init__(self, base: Tensor, shift: Tensor, masked: Tensor) -> None:
        log_base = base.float().masked_fill(masked, -torch.inf).log_softmax(-1)
        shift = shift.masked_fill(masked, 0.0)
        mean = (log_base.exp() * shift).sum(-1, keepdim=True)
        self.log_base, self.shift = log_base, (shift - mean).masked_fill(masked, 0.0)
        self.log_norm_0, self.mean_0, _ = self._moments(torch.zeros(self.shift.shape[:-1], device=base.device))

    def _moments(self, weight: Tensor, with_variance: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
        """``A(a), m(a), v(a)`` for weights ``[T, n]``; fp32 terms, sums in float64 to keep small differences."""
        logits = self.log_base + weight.unsqueeze(-1) * self.shift
        highest = logits.amax(-1, keepdim=True)
        terms = (logits - highest).exp_()
        total = terms.sum(-1, dtype=torch.float64)
        terms *= self.shift
        mean = terms.sum(-1, dtype=torch.float64) / total
        variance = None
        if with_variance:
            terms *= self.shift
            variance = terms.sum(-1, dtype=torch.float64) / total - mean.square()
        return highest.squeeze(-1).double() + total.log(), mean, variance

    def divergences(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """``KL(P_a||P_0), KL(P_0||P_a)`` for weights ``[T, n]``, in float64."""
        log_norm, mean, _ = self._moments(weight)
        return self._divergences(weight, log_norm, mean)

    def divergences_and_slopes(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The two divergences and their derivatives ``a v(a)`` and ``m(a) - m(0)``."""
        log_norm, mean, variance = self._moments(weight, with_variance=True)
        forward, backward = self._divergences(weight, log_norm, mean)
        return forward, backward, weight.double() * variance, mean - self.mean_0

    def _divergences(self, weight: Tensor, log_norm: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        weight, rise = weight.double(), log_norm - self.log_norm_0
        return (weight * mean - rise).clamp(min=0), (rise - weight * self.mean_0).clamp(min=0)


def _solve_rows(
    large: Tensor, base: Tensor, experts: Tensor, grid: Tensor, rule: str, selection: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, loss and expert of each of n rows: ``[n]`` each."""
    # An entry that any model excludes takes no part in the search.
    masked = torch.isneginf(large) | torch.isneginf(base) | torch.isneginf(experts)
    shift = logit_shift(base, experts)
    ones = torch.ones(experts.shape[:2], device=large.device)
    targets = _Ray(base, shift, masked).divergences(ones)
    ray = _Ray(large, shift, masked)

    losses = torch.stack([_loss(ray.divergences(weight * ones), targets, selection) for weight in grid])
    flat = losses.flatten(0, 1)  # candidates in the paper's order: weight first, then expert
    lowest = flat.amin(0)
    winner = (flat <= lowest + _tie(lowest)).int().argmax(0)
    position, expert = winner // len(experts), winner % len(experts)
    weight, loss = grid[position], flat.gather(0, winner[None])[0]
    if rule == "newton":
        finer_weight, finer_loss, finer_expert = _refine(ray, targets, selection, grid, losses)
        # Where the refinement gains nothing that can be told apart, the grid's order of ties holds.
        gains = finer_loss < loss - _tie(loss)
        weight, loss = torch.where(gains, finer_weight, weight), torch.where(gains, finer_loss, loss)
        expert = torch.where(gains, finer_expert, expert)
    return weight, loss.float(), expert


def _tie(loss: Tensor) -> Tensor:
    """How much two losses near ``loss`` may differ and still be equal: its change when a divergence does not change."""
    return 2 * loss.sqrt() * _RESOLUTION + _RESOLUTION**2


def _loss(divergences: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor], selection: str) -> Tensor:
    """The paper's loss for each ray, ``[T, n]`` float64."""
    if selection == "matched":
        return sum((found - wanted).square() for found, wanted in zip(divergences, targets, strict=True))
    return sum((found[:, None] - wanted).square().sum(1) for found, wanted in zip(divergences, targets, strict=True))


def _refine(
    ray: _Ray, targets: tuple[Tensor, Tensor], selection: str, grid: Tensor, losses: Tensor, iterations: int = 12
) -> tuple[Tensor, Tensor, Tensor]:
    """Gauss-Newton steps inside the bracket of each ray's best grid point, halving where a step leaves it."""
    best_loss, position = losses.min(0)  # [T, n]
    best = grid[position]
    low, high = grid[(position - 1).clamp(min=0)], grid[(position + 1).clamp(max=len(grid) - 1)]
    weight = best.clone()
    for _ in range(iterations):
        forward, backward, forward_slope, backward_slope = ray.divergences_and_slopes(weight)
        loss = _loss((forward, backward), targets, selection)
        better = loss < best_loss
        best, best_loss = torch.where(better, weight, best), torch.where(better, loss, best_loss)
        if selection == "matched":
            gap_forward, gap_backward = forward - targets[0], backward - targets[1]
        else:  # the sum over targets has the slope of the distance to their mean
            gap_forward, gap_backward = forward - targets[0].mean(0), backward - targets[1].mean(0)
        slope = gap_forward * forward_slope + gap_backward * backward_slope
        curvature = forward_slope.square() + backward_slope.square()
        low = torch.where(slope < 0, weight, low)
        high = torch.where(slope > 0, weight, high)
        newton = (weight.double() - slope / curvature.clamp(min=1e-30)).float()
        inside = (newton > low) & (newton < high)
        weight = torch.where(inside, newton, (low + high) / 2)
    expert = best_loss.argmin(0)
    chosen = expert[None]
    return best.gather(0, chosen)[0], best_loss.gather(0, chosen)[0], expert
