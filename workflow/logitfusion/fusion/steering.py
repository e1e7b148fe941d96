"""How the experts steer: fixed weights, or weights that are solved for at every position."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from logitfusion.config.fusion_options import FusionOptions, Weights
from logitfusion.config.gate import Gate
from logitfusion.errors import UserError
from logitfusion.fusion.gate.file import read_gate
from logitfusion.fusion.logits import fuse_logits
from logitfusion.fusion.selections import POOLS
from logitfusion.fusion.weights import make_grids, solve_weights


@dataclass(frozen=True)
class Steered:
    """Fused logits ``[..., V]`` fp32, the experts' weights ``[T, ...]``, and which steers most ``[...]`` (-1: none)."""

    logits: Tensor
    weights: Tensor
    expert: Tensor


class Steering:
    """The options of a fusion, and how they combine the logits of its models.

    Args:
        options: see ``FusionOptions``.
        experts: how many there are.

    Raises:
        UserError: options that do not fit the number of experts.
    """

    def __init__(self, options: FusionOptions, experts: int) -> None:
        try:
            make_grids(options.bounds, options.step, max(experts, 1), pooled=options.selection in POOLS)
        except ValueError as error:
            raise UserError(f"The weights can't be searched: {error}.") from None
        self.options, self.experts = options, experts
        self.fixed = _fixed_weights(options.weights, experts)
        self.gate = _open_gate(options) if self.solves else None

    @property
    def solves(self) -> bool:
        """Whether the weights are solved at every position; fixed ones are in ``fixed``, one an expert."""
        return self.options.weights == "dynamic"

    @property
    def reads_prompts(self) -> bool:
        """Whether it matters how well the models read the prompt."""
        return self.options.familiar is not None and self.experts > 0

    def steers(self, gap: Tensor) -> Tensor:
        """Whether experts steer after prompts of this likelihood gap (see ``read_prompts``)."""
        return gap <= self.options.familiar

    def fuse(self, large: Tensor, small: Tensor, steered: Tensor | None = None) -> Steered:
        """Steer ``large [..., V]`` by ``small [T + 1, ..., V]``, the base first, where ``steered [...]`` is true."""
        if not self.experts:
            none = torch.full(large.shape[:-1], -1, device=large.device)
            return Steered(large.float(), large.new_zeros(0, *large.shape[:-1]), none)
        weights = draw_to_anchor(self.solve(large, small), self.options.trust, self.options.anchor)
        if steered is not None:
            weights = torch.where(steered, weights, 0.0)
        strength = weights.abs()
        expert = torch.where(strength.amax(0) == 0, -1, strength.argmax(0))
        return Steered(fuse_logits(large, small[0], small[1:], weights), weights, expert)

    def solve(self, large: Tensor, small: Tensor) -> Tensor:
        """The experts' weights ``[T, ...]``, fixed or solved, before they are drawn to the anchor.

        Raises:
            UserError: the logits' differences leave fp32.
        """
        if self.solves:
            options = self.options
            try:
                return solve_weights(
                    large, small[0], small[1:],
                    rule=options.rule, selection=options.selection, bounds=options.bounds, step=options.step,
                    gate=self.gate,
                ).weights  # fmt: skip
            except ValueError as error:  # the models' logits are finite, so it is their differences
                raise UserError(
                    f"The weights can't be solved for: {error}; use fixed weights or other models."
                ) from None
        fixed = torch.tensor(self.fixed, device=large.device)
        return fixed.view(-1, *[1] * (large.ndim - 1)).expand(-1, *large.shape[:-1])


def draw_to_anchor(weights: Tensor, trust: float, anchor: float) -> Tensor:
    """Weights ``[T, ...]`` whose sum is ``trust * sum + (1 - trust) * anchor``, in the same shares.

    Where all weights are 0 the experts predict what the base predicts, and they stay 0.
    """
    if trust == 1:
        return weights
    total = weights.sum(0)
    target = trust * total + (1 - trust) * anchor
    return torch.where(total == 0, 0.0, weights * (target / torch.where(total == 0, 1.0, total)))


def _fixed_weights(weights: Weights, experts: int) -> tuple[float, ...]:
    """Fixed weights, one an expert; none where they are solved."""
    if weights == "dynamic":
        return ()
    listed = tuple(map(float, weights)) if isinstance(weights, tuple) else (float(weights),) * experts
    if len(listed) != experts:
        raise UserError(f"{experts} experts need {experts} weights, and {len(listed)} were given.")
    return listed


def _open_gate(options: FusionOptions) -> Gate | None:
    """The gate of the rule of this name.

    Raises:
        UserError: it was not given, or its file can't be used.
    """
    if options.rule != "gate":
        return None
    if options.gate is None:
        raise UserError("The rule gate goes by a gate that was fitted: give its file as the option gate.")
    return options.gate if isinstance(options.gate, Gate) else read_gate(options.gate)
