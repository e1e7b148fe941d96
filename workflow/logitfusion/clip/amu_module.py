"""AMU as a torch module and its loss, for training loops of one's own (arXiv 2404.08958)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from logitfusion.clip.confidence import PUBLISHED_POWER, PUBLISHED_REFERENCE, check_power, reference_of, uncertainty
from logitfusion.clip.heads import check_features, check_labelled, class_means, fuse, support_spread
from logitfusion.clip.methods.amu import mixing_of, temperature_of
from logitfusion.tensors import check_one_device


class AMUHead(nn.Module):
    """The trainable part of AMU and its fusion.

    Args:
        aux_features: ``[n, D_aux]``, unit norm. The weight ``[C, D_aux]`` starts as the mean of each class's features,
            not normalised; 0 for a class without an image.
        labels: ``[n]`` int64.
        num_classes: C, at least 2.
        alpha: weight of the bias; 0 is zero-shot CLIP.
        power, reference, kind: see ``logitfusion.clip.uncertainty``.
        temperature: multiplies z; a number, or ``"classes"``, see ``temperature_of``. 1 as published.
        spread: what divides the outputs: ``"sample"``, as published, or ``"mixed"``, see ``mixing_of``.

    Raises:
        TypeError: features that are no floating-point numbers, labels that are not int64.
        ValueError: shapes that don't fit together, labels beyond the classes, a name that is not known, fewer than two
            classes, or a number that is not finite.
    """

    def __init__(
        self,
        aux_features: Tensor,
        labels: Tensor,
        num_classes: int,
        *,
        alpha: float = 0.5,
        power: float = PUBLISHED_POWER,
        reference: float | str = PUBLISHED_REFERENCE,
        kind: str = "kurtosis",
        temperature: float | str = 1.0,
        spread: str = "sample",
    ) -> None:
        check_labelled(aux_features, labels, num_classes)
        if not math.isfinite(alpha):
            raise ValueError(f"alpha is a finite number, not {alpha}")
        super().__init__()
        self.weight = nn.Parameter(class_means(aux_features, labels, num_classes))
        self.power, self.reference, self.kind = power, reference_of(reference, num_classes), kind
        check_power(power, self.reference, num_classes)
        self.temperature = temperature_of(temperature, num_classes)
        self.alpha = float(alpha)
        self.mixing = mixing_of(spread, num_classes)
        self.support_spread = support_spread(aux_features, self.weight.detach())
        if not math.isfinite(self.support_spread):
            raise ValueError(
                "aux_features are finite and of unit norm, and the spread of the head's outputs is no number"
            )

    def forward(self, clip_logits: Tensor, aux_features: Tensor) -> tuple[Tensor, Tensor]:
        """``[..., C]``, ``[..., D_aux]`` -> fused logits s and auxiliary logits z, both ``[..., C]``.

        Raises:
            TypeError: what are no tensors of floating-point numbers.
            ValueError: other shapes, or several devices.
        """
        classes, width = self.weight.shape
        check_features("clip_logits", clip_logits, classes)
        check_features("aux_features", aux_features, width)
        if clip_logits.shape[:-1] != aux_features.shape[:-1]:
            raise ValueError(
                f"clip_logits are [..., {classes}] and aux_features [..., {width}] of the same images, not"
                f" {tuple(clip_logits.shape)} and {tuple(aux_features.shape)}"
            )
        check_one_device(clip_logits=clip_logits, aux_features=aux_features, weight=self.weight)
        factor = self.alpha * uncertainty(clip_logits, self.kind, self.power, self.reference)
        wider = torch.promote_types(aux_features.dtype, self.weight.dtype)
        outputs = aux_features.to(wider) @ self.weight.T.to(wider)
        return fuse(clip_logits, outputs, factor, self.temperature, self.mixing, self.support_spread)


def amu_loss(fused: Tensor, auxiliary: Tensor, labels: Tensor, share: float) -> Tensor:
    """``(1 - lambda) CE(z, y) + lambda CE(s, y)`` with lambda = ``share``; ``[B, C]`` twice and ``[B]`` -> scalar."""
    entropy = nn.functional.cross_entropy
    return (1.0 - share) * entropy(auxiliary, labels) + share * entropy(fused, labels)
