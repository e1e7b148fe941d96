"""How several experts share the steering: each a ray of its own, or one pool of all.

A selection is an object of this file whose name is in ``SelectionName``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from logitfusion.config.fusion_options import SelectionName

# How sharply "judged" follows the large model's opinion of the experts: pool weights are softmax(sharpness * opinion).
# 0 is "pooled"; chosen among 0.1, 0.2, 0.5, 1 and 2 on the demo's validation split, where it hardly matters.
JUDGE_SHARPNESS = 0.2


@dataclass(frozen=True)
class Selection:
    """How the experts' rays are made and judged.

    Attributes:
        sharpness: how sharply the experts' shares of a pool follow the large model's opinion of them; None where each
            expert is a ray of its own.
        every_target: each ray is held against the targets of all experts, not against its own alone.
    """

    sharpness: float | None = None
    every_target: bool = False

    @property
    def pools(self) -> bool:
        """Whether all experts steer as one."""
        return self.sharpness is not None

    def shares(self, large: Tensor, base: Tensor, shift: Tensor) -> Tensor:
        """Each expert's share of a pool ``[T, n]``, from logits ``[n, V]`` and the experts' shifts ``[T, n, V]``.

        An opinion is the large model's mean log-probability of what the expert proposes.
        """
        if not self.sharpness or len(shift) == 1:
            return torch.full(shift.shape[:2], 1 / len(shift), device=large.device)
        log_large = large.log_softmax(-1).nan_to_num(neginf=0.0)  # no expert proposes what is excluded
        opinions = [torch.linalg.vecdot((base + direction).softmax(-1), log_large) for direction in shift]
        return (self.sharpness * torch.stack(opinions)).softmax(0)

    def loss(self, divergences: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of each ray, ``[..., R, n]``, from divergences ``[..., R, n]`` and targets ``[R, n]``."""
        pairs = zip(divergences, targets, strict=True)
        if self.every_target:
            return sum((found.unsqueeze(-3) - target[:, None]).square().sum(-3) for found, target in pairs)
        return sum((found - target).square() for found, target in pairs)

    def aim(self, target: Tensor) -> Tensor:
        """The one target ``[R, n]`` (or ``[n]``) that has the slope of the loss: of several their mean."""
        return target.mean(0) if self.every_target else target


one_hot = Selection(every_target=True)
matched = Selection()
pooled = Selection(sharpness=0.0)
judged = Selection(sharpness=JUDGE_SHARPNESS)

SELECTIONS: dict[str, Selection] = {name: globals()[name] for name in get_args(SelectionName)}
POOLS = tuple(name for name, selection in SELECTIONS.items() if selection.pools)
