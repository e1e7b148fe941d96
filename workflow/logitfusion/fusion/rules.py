"""How the experts' weights are found at every position.

A rule is a function of this file whose name is in ``RuleName``. Those of ``SearchName`` search for the best weight on
rays: each expert's own direction, or that of a pool of all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from logitfusion.config.fusion_options import RuleName
from logitfusion.config.gate import Gate
from logitfusion.fusion.divergences import Ray, divergences_on_grid
from logitfusion.fusion.gate.weights import weigh
from logitfusion.fusion.selections import Selection

# Divergences closer than this are the same number (fp32 terms, float64 sums); losses that differ by less are ties.
RESOLUTION = 1e-7
# The fast pass over all candidates is exact to this much and four times as much of the divergence itself (measured: at
# most two thirds of it): what it can't tell apart is computed anew, carefully.
_FAST_RESOLUTION = 5e-6
# Entries of a model that a CPU refines at a time: what is made of them stays in its cache.
_BLOCK = 131_072
_MOST_STEPS = 12  # of a refinement; two or three do, as it starts near its end

# Weight, loss and ray of each row, ``[n]``.
Found = tuple[Tensor, Tensor, Tensor]
# Weights ``[T, n]`` and loss ``[n]`` (None where nothing is searched).
Solved = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Rows:
    """Rows to solve: large, base ``[n, V]`` fp32, shifts ``[T, n, V]``; entries ``[n, V]`` left out, if any."""

    large: Tensor
    base: Tensor
    shift: Tensor
    masked: Tensor | None


@dataclass(frozen=True)
class Rays:
    """Rows with the directions ``[R, n, V]`` to search along."""

    large: Tensor
    base: Tensor
    directions: Tensor
    masked: Tensor | None

    def select(self, rows: Tensor | slice) -> Rays:
        masked = None if self.masked is None else self.masked[rows]
        return Rays(self.large[rows], self.base[rows], self.directions[:, rows], masked)


@dataclass(frozen=True)
class Search:
    """What is searched on each ray: candidates ``[K, R]`` (infinite where a ray has no further one) and their step.

    ``gate`` is what the rule of this name goes by, instead of a search.
    """

    grids: Tensor
    step: float
    selection: Selection
    gate: Gate | None = None

    def winner(self, losses: Tensor, tie: Tensor) -> tuple[Tensor, Tensor]:
        """Grid position and ray ``[n]`` of the lowest of ``losses [K, R, n]``: of ties the lowest weight, then ray."""
        order = self.grids.T.flatten().argsort(stable=True)  # rays that start at different weights are not in step
        flat = losses.transpose(0, 1).flatten(0, 1)[order]
        first = order[(flat <= flat.amin(0) + tie).int().argmax(0)]
        return first % len(losses), first // len(losses)


Rule = Callable[[Rows, Search], Solved]


def grid(rows: Rows, search: Search) -> Solved:
    """The paper's answer: the best candidate; of equal losses the lowest weight, then the lowest ray."""
    return _along_rays(_find_candidate, rows, search)


def newton(rows: Rows, search: Search) -> Solved:
    """The grid's answer, refined to a continuous one; never with a greater loss."""
    return _along_rays(_find_refined, rows, search)


def gate(rows: Rows, search: Search) -> Solved:
    """What was learned on validation data; nothing is searched."""
    return weigh(search.gate, rows.large, rows.base, rows.shift), None


RULES: dict[str, Rule] = {name: globals()[name] for name in get_args(RuleName)}


def _along_rays(find: Callable[[Rays, Search], Found], rows: Rows, search: Search) -> Solved:
    """The weights of the experts, each of whom is a ray of its own or a part of the one pool."""
    shift, selection = rows.shift, search.selection
    shares = selection.shares(rows.large, rows.base, shift) if selection.pools else None
    directions = shift if shares is None else _pool(shift, shares)
    weight, loss, ray = find(Rays(rows.large, rows.base, directions, rows.masked), search)
    if shares is None:
        shares = torch.arange(len(shift), device=shift.device)[:, None] == ray
    return torch.where(weight == 0, 0.0, weight * shares), loss


def _pool(shift: Tensor, shares: Tensor) -> Tensor:
    """The direction of the pool, ``[1, n, V]``."""
    return torch.einsum("tn,tnv->nv", shares, shift)[None] if len(shift) > 1 else shift


def _find_candidate(rays: Rays, search: Search) -> Found:
    fast = _Fast(rays, search)
    fast.look_again(rays, search)
    return fast.weight, fast.loss, fast.ray


def _find_refined(rays: Rays, search: Search) -> Found:
    fast = _Fast(rays, search)
    position, start = fast.losses.argmin(0), fast.between(search)
    careful = fast.look_again(rays, search)
    if careful is not None:
        position[:, fast.unsure] = careful.losses.argmin(0)
    vocabulary, rows = rays.directions.shape[-1], len(rays.large)
    height = max(1, _BLOCK // vocabulary) if rays.large.device.type == "cpu" else rows
    parts = []
    for first in range(0, rows, height):
        block = slice(first, first + height)
        answer = fast.weight[block], fast.loss[block], fast.ray[block]
        parts.append(_refine(rays.select(block), search, answer, position[:, block], start[:, block]))
    weight, loss, ray = (torch.cat(part) for part in zip(*parts, strict=True))
    return weight, loss.float(), ray


class _Fast:
    """The grid's answer in fp32: weight, loss and ray ``[n]``, and the rows in which that is not precise enough."""

    def __init__(self, rays: Rays, search: Search) -> None:
        large, directions = rays.large, rays.directions
        count, low = len(search.grids), search.grids[0]
        at_one = torch.ones(len(directions), device=large.device)
        self.targets = tuple(part[0] for part in divergences_on_grid(rays.base, directions, at_one, search.step, 1))
        self.found = divergences_on_grid(large, directions, low, search.step, count)
        losses = search.selection.loss(self.found, self.targets)
        finite = losses.isfinite().flatten(0, 1).all(0)
        self.losses = losses = losses.masked_fill(search.grids[..., None].isinf(), torch.inf)
        position, self.ray = search.winner(losses, torch.zeros((), device=large.device))
        self.loss = losses[position, self.ray, torch.arange(len(large), device=large.device)]
        self.weight = search.grids[position, self.ray]
        close = (losses <= self.loss + self._slack()).flatten(0, 1).sum(0)
        unsure = ((close != 1) | ~finite).nonzero()[:, 0]
        if len(unsure):  # experts that are equal to the base have no direction, and need no second look
            nothing = unsure[(directions[:, unsure] == 0).all(-1).all(0)]
            self._set(nothing, search.grids[0].min(), 0.0, search.grids[0].argmin())
            unsure = unsure[~torch.isin(unsure, nothing)]
        self.unsure = unsure

    def _slack(self) -> Tensor:
        """How much the losses near the lowest may be wrong, ``[n]``."""
        reached = self.loss.sqrt() + sum(
            part.amax(0) for part in self.targets
        )  # no divergence of the winner is greater
        error = _FAST_RESOLUTION * (1 + 4 * reached)
        return 4 * len(self.targets[0]) * (self.loss.sqrt() * error + error.square())

    def _set(self, rows: Tensor, weight: Tensor, loss: Tensor | float, ray: Tensor) -> None:
        self.weight[rows], self.loss[rows], self.ray[rows] = weight, loss, ray

    def look_again(self, rays: Rays, search: Search) -> _Careful | None:
        """Put the careful answer where this one is not precise enough."""
        if not len(self.unsure):
            return None
        careful = _Careful(rays.select(self.unsure), search)
        self._set(self.unsure, careful.weight, careful.loss.float(), careful.ray)
        return careful

    def between(self, search: Search) -> Tensor:
        """The best weight ``[R, n]`` of each ray near its best candidate, with a parabola for each divergence."""
        position = self.losses.argmin(0)
        weight = _at(search.grids, position)
        if len(search.grids) < 3:
            return weight
        middle = position.clamp(1, len(search.grids) - 2)
        along = torch.linspace(-1, 1, 201, device=weight.device)[:, None, None]
        paths = []
        for values in self.found:
            before, here, after = (values.gather(0, (middle + offset)[None])[0] for offset in (-1, 0, 1))
            paths.append(here + along * (after - before) / 2 + along.square() * (after + before - 2 * here) / 2)
        best = search.selection.loss(tuple(paths), self.targets).argmin(0)
        found = _at(search.grids, middle) + search.step * along[:, 0, 0][best]
        return torch.where(found.isfinite(), found, weight)


class _Careful:
    """The grid's answer, candidate by candidate with float64 sums: weight, loss and ray ``[n]``; ties are kept."""

    def __init__(self, rays: Rays, search: Search) -> None:
        ones = torch.ones(rays.directions.shape[:2], device=rays.large.device)
        self.targets = Ray(rays.base, rays.directions, rays.masked).divergences(ones)
        self.family = Ray(rays.large, rays.directions, rays.masked)
        self.losses = torch.stack([self._loss(weight, search.selection) for weight in search.grids])
        position, self.ray = search.winner(self.losses, _tie(self.losses.flatten(0, 1).amin(0)))
        rows = torch.arange(len(rays.large), device=rays.large.device)
        self.weight, self.loss = search.grids[position, self.ray], self.losses[position, self.ray, rows]

    def _loss(self, weight: Tensor, selection: Selection) -> Tensor:
        """Loss ``[R, n]`` of one candidate of each ray; infinite where a ray has no further one."""
        missing = weight.isinf()
        everywhere = weight.masked_fill(missing, 0.0)[:, None].expand(self.family.shift.shape[:2])
        loss = selection.loss(self.family.divergences(everywhere), self.targets)
        return loss.masked_fill(missing[:, None], torch.inf)


def _tie(loss: Tensor) -> Tensor:
    """How much two losses near ``loss`` may differ and still be equal: its change when a divergence does not change."""
    return 2 * loss.sqrt() * RESOLUTION + RESOLUTION**2


def _refine(rays: Rays, search: Search, answer: Found, position: Tensor, weight: Tensor) -> Found:
    """Gauss-Newton steps from ``weight`` inside the bracket of each ray's best candidate, both ``[R, n]``.

    Where they gain nothing that can be told apart, the grid's answer, and so its order of ties, holds.
    """
    family, selection = Ray(rays.large, rays.directions, rays.masked), search.selection
    targets = Ray(rays.base, rays.directions, rays.masked).divergences(torch.ones_like(weight))
    low, high = _neighbours(search.grids, position)
    weight, chosen = weight.clamp(low, high), answer[2][None]
    best = _at(search.grids, position).scatter(0, chosen, answer[0][None])
    best_loss = selection.loss(family.divergences(best), targets)
    candidate = best_loss.gather(0, chosen)[0]
    aims = [selection.aim(target) for target in targets]
    summed = len(weight) if selection.every_target else 1
    moves = torch.ones_like(weight, dtype=torch.bool)  # rows that are there see nothing of those that still move
    for _ in range(_MOST_STEPS):
        forward, backward, forward_slope, backward_slope = family.divergences_and_slopes(weight)
        loss = selection.loss((forward, backward), targets)
        better = moves & (loss < best_loss)
        best, best_loss = torch.where(better, weight, best), torch.where(better, loss, best_loss)
        slope = (forward - aims[0]) * forward_slope + (backward - aims[1]) * backward_slope
        curvature = (forward_slope.square() + backward_slope.square()).clamp(min=1e-30)
        moves = moves & (slope.square() / curvature > _tie(best_loss / summed))  # what a further step might gain
        if not moves.any():
            break
        low, high = torch.where(slope < 0, weight, low), torch.where(slope > 0, weight, high)
        step = (weight.double() - slope / curvature).float()
        weight = torch.where((step > low) & (step < high), step, (low + high) / 2)
    loss, ray = best_loss.min(0)
    gains = loss < candidate - _tie(candidate)
    refined = best.gather(0, ray[None])[0]
    return (
        torch.where(gains, refined, answer[0]),
        torch.where(gains, loss, candidate),
        torch.where(gains, ray, answer[2]),
    )


def _neighbours(grids: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """The candidates ``[R, n]`` below and above those at grid positions ``[R, n]``, where there are such."""
    grids = grids.where(grids.isfinite(), grids.masked_fill(grids.isinf(), 0.0).amax(0))
    return _at(grids, (position - 1).clamp(min=0)), _at(grids, (position + 1).clamp(max=len(grids) - 1))


def _at(grids: Tensor, position: Tensor) -> Tensor:
    """The weights ``[R, n]`` at grid positions ``[R, n]``."""
    return grids.T.gather(1, position)
