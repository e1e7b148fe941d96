"""How the experts steer: fixed weights, or weights that are solved for at every position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from logitfusion.errors import UserError
from logitfusion.fusion.logits import fuse_logits
from logitfusion.fusion.weights import POOLS, RULES, SELECTIONS, Bounds, make_grids, solve_weights


@dataclass(frozen=True)
class Steered:
    """Fused logits ``[..., V]`` fp32, the experts' weights ``[T, ...]`` and who steers most ``[...]`` (-1: nobody)."""

    logits: Tensor
    weights: Tensor
    expert: Tensor


class Steering:
    """The options of a fusion, checked once.

    Args:
        experts: how many there are.
        weights: ``"dynamic"``, one number for all experts, or one for each.
        rule, selection, bounds, step: passed to ``solve_weights``.

    Raises:
        UserError: options that can't be used.
    """

    def __init__(
        self,
        experts: int,
        *,
        weights: str | float | Sequence[float] = "dynamic",
        rule: str = "grid",
        selection: str = "judged",
        bounds: Bounds = (0.0, 2.0),
        step: float = 0.1,
    ) -> None:
        if rule not in RULES or selection not in SELECTIONS:
            raise UserError(
                f"rule is one of {RULES} and selection one of {SELECTIONS}, not {rule!r} and {selection!r}."
            )
        try:
            make_grids(bounds, step, max(experts, 1), pooled=selection in POOLS)
        except ValueError as error:
            raise UserError(f"The weights can't be searched: {error}.") from None
        self.experts = experts
        self.fixed = _fixed_weights(weights, experts)
        self.rule, self.selection, self.bounds, self.step = rule, selection, bounds, step

    def fuse(self, large: Tensor, small: Tensor) -> Steered:
        """Steer ``large [..., V]`` by ``small [T + 1, ..., V]``, the base first."""
        leading = large.shape[:-1]
        if not self.experts:
            nobody = torch.full(leading, -1, device=large.device)
            return Steered(large.float(), torch.zeros(0, *leading, device=large.device), nobody)
        base, experts = small[0], small[1:]
        if self.fixed is None:
            solved = solve_weights(
                large,
                base,
                experts,
                rule=self.rule,
                selection=self.selection,
                bounds=self.bounds,
                step=self.step,
            )
            weights, expert = solved.weights, solved.expert
        else:
            fixed = torch.tensor(self.fixed, device=large.device)
            weights = fixed.view(-1, *[1] * len(leading)).expand(-1, *leading)
            strongest = int(fixed.abs().argmax())
            expert = torch.full(leading, strongest if self.fixed[strongest] != 0 else -1, device=large.device)
        return Steered(fuse_logits(large, base, experts, weights), weights, expert)


def _fixed_weights(weights: str | float | Sequence[float], experts: int) -> list[float] | None:
    """Fixed weights as one number an expert, or None where they are solved for."""
    if weights == "dynamic":
        return None
    if isinstance(weights, str):
        raise UserError(f'weights is "dynamic", a number or a list of numbers, not {weights!r}.')
    listed = [float(weights)] * experts if isinstance(weights, (int, float)) else [float(weight) for weight in weights]
    if len(listed) != experts:
        raise UserError(f"{experts} experts need {experts} weights, and {len(listed)} were given.")
    return listed
