"""How much each expert steers, at every decoding step (Dynamic Logits Fusion, arXiv 2406.15480, eq. 5 and 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from logitfusion.fusion.divergences import Ray, divergences_on_grid
from logitfusion.fusion.logits import logit_shift

Bounds = tuple[float, float] | Sequence[tuple[float, float]]

RULES = ("grid", "newton")
POOLS = ("pooled", "judged")
SELECTIONS = ("one_hot", "matched", *POOLS)

# How sharply "judged" follows the large model's opinion of the experts: pool weights are softmax(sharpness * opinion).
# 0 is "pooled"; chosen among 0.1, 0.2, 0.5, 1 and 2 on the demo's validation split, where it hardly matters.
JUDGE_SHARPNESS = 0.2

# Divergences closer than this are the same number (fp32 terms, float64 sums); losses that differ by less are ties.
_RESOLUTION = 1e-7
# The fast pass over all candidates is exact to this much and four times as much of the divergence itself (measured: at
# most two thirds of it): what it can't tell apart is computed anew, carefully.
_FAST_RESOLUTION = 5e-6
# Numbers of one model in a chunk of rows: about 16 MB of fp32 for each temporary.
_CHUNK = 4_000_000


@dataclass(frozen=True)
class SolvedWeights:
    """What ``solve_weights`` found.

    Attributes:
        weights: ``[T, ...]`` fp32. At most one of the T is not zero with ``one_hot`` and ``matched``.
        loss: ``[...]`` fp32, the squared distance to the targets at the chosen weights; each distance is exact to about
            1e-6 (relative above 1).
        expert: ``[...]`` int64, index of the expert that steers most, -1 where all weights are 0.
    """

    weights: Tensor
    loss: Tensor
    expert: Tensor


@torch.no_grad()
def solve_weights(
    large: Tensor,
    base: Tensor,
    experts: Tensor,
    *,
    rule: str = "grid",
    selection: str = "judged",
    bounds: Bounds = (0.0, 2.0),
    step: float = 0.1,
) -> SolvedWeights:
    """Choose the experts' weights so that the large model moves as far as the small one did.

    Every choice minimises ``(KL(P~||P) - KL(Q_s||Q))^2 + (KL(P||P~) - KL(Q||Q_s))^2`` along rays: each expert's own
    direction, or that of a pool of all. With one expert all selections are the same, the paper's. Gradients do not flow
    through a search, and stop here.

    Args:
        large: raw logits of the large model, ``[..., V]``, any float type; -inf entries are left out.
        base: raw logits of the small base, ``[..., V]``.
        experts: raw logits of the experts, ``[T, ..., V]``.
        rule: ``"grid"`` tries the multiples of ``step`` within the bounds (the paper: 0.0, 0.1, ..., 2.0) and of equal
            losses keeps the lowest weight, then the lowest expert; ``"newton"`` refines the grid's answer to a
            continuous one, never with a greater loss.
        selection: how several experts share the work.
            ``"one_hot"``: one expert, by the loss summed over the targets of all experts (the paper);
            ``"matched"``: one expert, each ray held against the target of its own expert;
            ``"pooled"``: all of them as one, the normalised geometric mean of their distributions (a logarithmic
            opinion pool; Genest and Zidek 1986), ``Q_s = softmax(base + mean_t (expert_t - base))``;
            ``"judged"``: a pool weighted by how plausible the large model finds what each expert would say,
            ``softmax_t(0.2 * sum_v Q_t(v) log P(v))``.
        bounds: lowest and highest weight, or one pair for each expert (not with pools, which have one weight).
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
    grids = make_grids(bounds, step, len(experts), pooled=selection in POOLS).to(large.device)
    leading, vocabulary = large.shape[:-1], large.shape[-1]
    rows = math.prod(leading)
    flat_large, flat_base = large.reshape(rows, vocabulary), base.reshape(rows, vocabulary)
    flat_experts = experts.reshape(len(experts), rows, vocabulary)
    chunk = max(1, _CHUNK // (vocabulary * len(experts)))
    chunk = math.ceil(rows / math.ceil(rows / chunk)) if rows else 1  # of one size: a small last one would cost as much
    with torch.autocast(large.device.type, enabled=False):  # which would make the sums bf16
        parts = [
            _solve_rows(
                flat_large[start : start + chunk],
                flat_base[start : start + chunk],
                flat_experts[:, start : start + chunk],
                _Search(grids, step, rule, selection),
            )
            for start in range(0, rows, chunk)
        ]
    if not parts:
        empty = torch.zeros(leading, device=large.device)
        return SolvedWeights(torch.zeros(len(experts), *leading, device=large.device), empty, empty.long() - 1)
    weights = torch.cat([part[0] for part in parts], dim=1)
    loss = torch.cat([part[1] for part in parts])
    expert = torch.where(weights.amax(0) == 0, -1, weights.argmax(0))
    return SolvedWeights(weights.reshape(len(experts), *leading), loss.reshape(leading), expert.reshape(leading))


def make_grids(bounds: Bounds, step: float, experts: int, *, pooled: bool = False) -> Tensor:
    """The candidates of each ray, fp32 ``[K, rays]``: the lowest weight and every multiple of the step above it.

    A ray with fewer candidates than the others is filled up with infinity.

    Raises:
        ValueError: bounds out of order, negative or infinite, not one or one for each expert, or a step that is not
            positive.
    """
    pairs = [bounds] if bounds and isinstance(bounds[0], Real) else list(bounds)
    if not pairs or not all(isinstance(pair, Sequence) and len(pair) == 2 for pair in pairs):
        raise ValueError(f"bounds are a pair (lowest, highest), or one pair for each expert, not {bounds!r}")
    if len(pairs) == 1:
        pairs = pairs * (1 if pooled else experts)
    elif pooled:
        raise ValueError("a pool of experts has one weight, so its bounds are one pair")
    elif len(pairs) != experts:
        raise ValueError(f"{experts} experts need one pair of bounds or one for each, not {len(pairs)}")
    grids = [_grid(*pair, step) for pair in pairs]
    return torch.nn.utils.rnn.pad_sequence(grids, padding_value=math.inf)


def _grid(low: float, high: float, step: float) -> Tensor:
    if not 0 <= low <= high < math.inf or not 0 < step < math.inf:
        raise ValueError(f"bounds must satisfy 0 <= low <= high and step be positive, not {(low, high)} and {step}")
    # 2.0 is the twentieth multiple of 0.1 although 2.0 / 0.1 may round to a little less.
    candidates = math.floor((high - low) / step + 1e-9) + 1
    return torch.tensor([low + step * k for k in range(candidates)], dtype=torch.float32)


@dataclass(frozen=True)
class _Search:
    """What is searched on each ray."""

    grids: Tensor
    step: float
    rule: str
    selection: str

    def loss(self, divergences: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of each ray, ``[..., R, n]``, from divergences ``[..., R, n]`` and targets ``[R, n]``."""
        pairs = zip(divergences, targets, strict=True)
        if self.selection == "one_hot":  # every ray chases the targets of all
            return sum((found.unsqueeze(-3) - wanted[:, None]).square().sum(-3) for found, wanted in pairs)
        return sum((found - wanted).square() for found, wanted in pairs)

    def winner(self, losses: Tensor, tie: Tensor) -> tuple[Tensor, Tensor]:
        """Grid position and ray ``[n]`` of the lowest of ``losses [K, R, n]``: of ties the lowest weight, then ray."""
        order = self.grids.T.flatten().argsort(stable=True)  # rays that start at different weights are not in step
        flat = losses.transpose(0, 1).flatten(0, 1)[order]
        first = order[(flat <= flat.amin(0) + tie).int().argmax(0)]
        return first % len(losses), first // len(losses)


def _solve_rows(large: Tensor, base: Tensor, experts: Tensor, search: _Search) -> tuple[Tensor, Tensor]:
    """Weights ``[T, n]`` and loss ``[n]``."""
    large, base, shift, masked = _without_masked(large.float(), base.float(), experts)
    shares = _shares(large, base, shift, search.selection)
    rays = shift if shares is None else _pool(shift, shares)
    if search.rule == "newton":
        weight, loss, ray = _solve_carefully(large, base, rays, masked, search)
    else:
        weight, loss, ray, unsure = _solve_fast(large, base, rays, search)
        if len(unsure):
            again = _solve_carefully(large[unsure], base[unsure], rays[:, unsure], masked[unsure], search)
            weight[unsure], loss[unsure], ray[unsure] = again
    if shares is None:
        shares = torch.arange(len(shift), device=large.device)[:, None] == ray
    return torch.where(weight == 0, 0.0, weight * shares), loss


def _without_masked(large: Tensor, base: Tensor, experts: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """An entry that any model excludes takes no part: -inf in large and base, 0 in the shift; and the mask."""
    shift = experts.float() - base
    masked = torch.zeros(1, 1, dtype=torch.bool, device=large.device).expand(large.shape)
    if torch.isfinite(large.amin()) and torch.isfinite(shift.amin()) and torch.isfinite(shift.amax()):
        return large, base, shift, masked
    masked = torch.isneginf(large) | torch.isneginf(base) | torch.isneginf(experts).any(0)
    shift = logit_shift(base, experts).masked_fill(masked, 0.0)
    return large.masked_fill(masked, -torch.inf), base.masked_fill(masked, -torch.inf), shift, masked


def _shares(large: Tensor, base: Tensor, shift: Tensor, selection: str) -> Tensor | None:
    """Each expert's share of a pool, ``[T, n]``; None where experts are not pooled."""
    if selection not in POOLS:
        return None
    if selection == "pooled" or len(shift) == 1:
        return torch.full(shift.shape[:2], 1 / len(shift), device=large.device)
    log_large = large.log_softmax(-1).nan_to_num(neginf=0.0)  # no expert proposes what is excluded
    opinions = [torch.linalg.vecdot((base + direction).softmax(-1), log_large) for direction in shift]
    return (JUDGE_SHARPNESS * torch.stack(opinions)).softmax(0)


def _pool(shift: Tensor, shares: Tensor) -> Tensor:
    """The direction of the pool, ``[1, n, V]``."""
    return torch.einsum("tn,tnv->nv", shares, shift)[None] if len(shift) > 1 else shift


def _solve_fast(large: Tensor, base: Tensor, rays: Tensor, search: _Search) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The grid's answer in fp32, ``[n]`` each, and the numbers of the rows in which that is not precise enough."""
    count, low = len(search.grids), search.grids[0]
    at_one = torch.ones(len(rays), device=large.device)
    targets = tuple(part[0] for part in divergences_on_grid(base, rays, at_one, search.step, 1))
    found = divergences_on_grid(large, rays, low, search.step, count)
    losses = search.loss(found, targets)
    finite = losses.isfinite().flatten(0, 1).all(0)
    losses = losses.masked_fill(search.grids[..., None].isinf(), torch.inf)
    position, ray = search.winner(losses, torch.zeros((), device=large.device))
    rows = torch.arange(len(large), device=large.device)
    loss = losses[position, ray, rows]
    reached = loss.sqrt() + sum(part.amax(0) for part in targets)  # no divergence of the winner is greater
    error = _FAST_RESOLUTION * (1 + 4 * reached)
    slack = 4 * len(rays) * (loss.sqrt() * error + error.square())
    close = (losses <= loss + slack).flatten(0, 1).sum(0)
    unsure = ((close != 1) | ~finite).nonzero()[:, 0]
    weight = search.grids[position, ray]
    if len(unsure):  # experts that say what the base says have no direction, and need no second look
        nothing = unsure[(rays[:, unsure] == 0).all(-1).all(0)]
        weight[nothing], loss[nothing], ray[nothing] = search.grids[0].min(), 0.0, search.grids[0].argmin()
        unsure = unsure[~torch.isin(unsure, nothing)]
    return weight, loss, ray, unsure


def _solve_carefully(
    large: Tensor, base: Tensor, rays: Tensor, masked: Tensor, search: _Search
) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, loss and ray ``[n]``, candidate by candidate with float64 sums; ties are kept."""
    targets = Ray(base, rays, masked).divergences(torch.ones(rays.shape[:2], device=large.device))
    family = Ray(large, rays, masked)
    losses = torch.stack([_careful_loss(family, weight, targets, search) for weight in search.grids])
    position, ray = search.winner(losses, _tie(losses.flatten(0, 1).amin(0)))
    rows = torch.arange(len(large), device=large.device)
    weight, loss = search.grids[position, ray], losses[position, ray, rows]
    if search.rule == "newton":
        finer_weight, finer_loss, finer_ray = _refine(family, targets, search, losses)
        # Where the refinement gains nothing that can be told apart, the grid's order of ties holds.
        gains = finer_loss < loss - _tie(loss)
        weight, loss = torch.where(gains, finer_weight, weight), torch.where(gains, finer_loss, loss)
        ray = torch.where(gains, finer_ray, ray)
    return weight, loss.float(), ray


def _careful_loss(family: Ray, weight: Tensor, targets: tuple[Tensor, Tensor], search: _Search) -> Tensor:
    """Loss ``[R, n]`` of one candidate of each ray; infinite where a ray has no further one."""
    missing = weight.isinf()
    everywhere = weight.masked_fill(missing, 0.0)[:, None].expand(family.shift.shape[:2])
    return search.loss(family.divergences(everywhere), targets).masked_fill(missing[:, None], torch.inf)


def _tie(loss: Tensor) -> Tensor:
    """How much two losses near ``loss`` may differ and still be equal: its change when a divergence does not change."""
    return 2 * loss.sqrt() * _RESOLUTION + _RESOLUTION**2


def _refine(
    family: Ray, targets: tuple[Tensor, Tensor], search: _Search, losses: Tensor, iterations: int = 12
) -> tuple[Tensor, Tensor, Tensor]:
    """Gauss-Newton steps inside the bracket of each ray's best grid point, halving where a step leaves it."""
    best_loss, position = losses.min(0)  # [R, n]
    grids = search.grids.where(search.grids.isfinite(), search.grids.masked_fill(search.grids.isinf(), 0.0).amax(0))
    best = _at(grids, position)
    low, high = _at(grids, (position - 1).clamp(min=0)), _at(grids, (position + 1).clamp(max=len(grids) - 1))
    weight = best.clone()
    for _ in range(iterations):
        forward, backward, forward_slope, backward_slope = family.divergences_and_slopes(weight)
        loss = search.loss((forward, backward), targets)
        better = loss < best_loss
        best, best_loss = torch.where(better, weight, best), torch.where(better, loss, best_loss)
        if search.selection == "one_hot":  # the sum over targets has the slope of the distance to their mean
            gap_forward, gap_backward = forward - targets[0].mean(0), backward - targets[1].mean(0)
        else:
            gap_forward, gap_backward = forward - targets[0], backward - targets[1]
        slope = gap_forward * forward_slope + gap_backward * backward_slope
        curvature = forward_slope.square() + backward_slope.square()
        low = torch.where(slope < 0, weight, low)
        high = torch.where(slope > 0, weight, high)
        newton = (weight.double() - slope / curvature.clamp(min=1e-30)).float()
        inside = (newton > low) & (newton < high)
        weight = torch.where(inside, newton, (low + high) / 2)
    ray = best_loss.argmin(0)[None]
    return best.gather(0, ray)[0], best_loss.gather(0, ray)[0], ray[0]


def _at(grids: Tensor, position: Tensor) -> Tensor:
    """The weights ``[R, n]`` at grid positions ``[R, n]``."""
    return grids.T.gather(1, position)
