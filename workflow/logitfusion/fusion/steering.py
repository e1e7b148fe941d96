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
        trust: of solved weights, 1 uses them as they are; below it their sum is drawn towards the anchor, and 0 gives
            all positions the same sum (shared as solved).
        anchor: the sum of the weights where the solved one is not trusted.
        familiar: experts steer only after prompts that the small base reads nearly as well as the large model does:
            the most nats a token by which it may be worse. None: they steer after all.

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
        trust: float = 1.0,
        anchor: float = 1.0,
        familiar: float | None = None,
    ) -> None:
        if rule not in RULES or selection not in SELECTIONS:
            raise UserError(
                f"rule is one of {RULES} and selection one of {SELECTIONS}, not {rule!r} and {selection!r}."
            )
        try:
            make_grids(bounds, step, max(experts, 1), pooled=selection in POOLS)
        except ValueError as error:
            raise UserError(f"The weights can't be searched: {error}.") from None
        if not 0 <= trust <= 1 or not 0 <= anchor < float("inf"):
            raise UserError(f"trust lies between 0 and 1 and anchor is not negative, not {trust} and {anchor}.")
        self.experts = experts
        self.fixed = _fixed_weights(weights, experts)
        self.rule, self.selection, self.bounds, self.step = rule, selection, bounds, step
        self.trust, self.anchor, self.familiar = trust, anchor, familiar

    @property
    def reads_prompts(self) -> bool:
        """Whether it matters how well the models read the prompt."""
        return self.familiar is not None and self.experts > 0

    def fuse(self, large: Tensor, small: Tensor, steered: Tensor | None = None) -> Steered:
        """Steer ``large [..., V]`` by ``small [T + 1, ..., V]``, the base first, where ``steered [...]`` says so."""
        if not self.experts:
            nobody = torch.full(large.shape[:-1], -1, device=large.device)
            return Steered(large.float(), large.new_zeros(0, *large.shape[:-1]), nobody)
        weights = draw_to_anchor(self.solve(large, small), self.trust, self.anchor)
        if steered is not None:
            weights = torch.where(steered, weights, 0.0)
        strength = weights.abs()
        expert = torch.where(strength.amax(0) == 0, -1, strength.argmax(0))
        return Steered(fuse_logits(large, small[0], small[1:], weights), weights, expert)

    def solve(self, large: Tensor, small: Tensor) -> Tensor:
        """The experts' weights ``[T, ...]``, fixed or solved, before they are drawn to the anchor."""
        if self.fixed is not None:
            fixed = torch.tensor(self.fixed, device=large.device)
            return fixed.view(-1, *[1] * (large.ndim - 1)).expand(-1, *large.shape[:-1])
        options = {"rule": self.rule, "selection": self.selection, "bounds": self.bounds, "step": self.step}
        return solve_weights(large, small[0], small[1:], **options).weights


def draw_to_anchor(weights: Tensor, trust: float, anchor: float) -> Tensor:
    """Weights ``[T, ...]`` whose sum is ``trust * sum + (1 - trust) * anchor``, in the same shares.

    Where all weights are 0 the experts say what the base says, and they stay 0.
    """
    if trust == 1:
        return weights
    total = weights.sum(0)
    wanted = trust * total + (1 - trust) * anchor
    return torch.where(total == 0, 0.0, weights * (wanted / torch.where(total == 0, 1.0, total)))


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
