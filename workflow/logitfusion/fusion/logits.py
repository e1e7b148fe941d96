"""The fused logits (Dynamic Logits Fusion, arXiv 2406.15480, eq. 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from logitfusion.tensors import check_floats, check_logits, check_one_device


def logit_shift(base: Tensor, experts: Tensor) -> Tensor:
    """``expert_t - base`` in fp32, the shape of ``experts``: ``[T, ..., V]`` or ``[..., V]``.

    An entry that the base excludes (-inf) carries no evidence: its shift is 0. An entry that only the expert excludes
    stays -inf, so that any positive weight excludes it too.
    """
    base, experts = base.float(), experts.float()
    if base.numel() and base.min() > -torch.inf:
        return experts - base
    return torch.where(torch.isneginf(base), torch.zeros((), device=base.device), experts - base)


def fuse_logits(large: Tensor, base: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
    """``large + sum_t w_t (expert_t - base)``: small experts steer the large model by what they learned.

    With one expert and weight 1 this is proxy-tuning (Liu et al. 2024), with weight 0 it is the large model exactly.

    Args:
        large: raw logits of the large model, ``[..., V]``, any float type.
        base: raw logits of the small base, ``[..., V]``.
        experts: raw logits of the small experts, ``[T, ..., V]``.
        weights: ``[T, ...]``; where one is 0 its expert has no effect, whatever its logits and the base's are there.

    Returns:
        fp32 logits ``[..., V]``. Entries that are -inf in ``large`` stay so.

    Raises:
        TypeError: logits or weights that are no tensors of floating-point numbers.
        ValueError: shapes that don't fit together, an empty vocabulary, or several devices.
    """
    check_logits(large=large, base=base, experts=experts)
    check_floats(weights=weights)
    check_one_device(large=large, weights=weights)
    if base.shape != large.shape or experts.shape[1:] != large.shape or weights.shape != experts.shape[:-1]:
        raise ValueError(
            "fuse_logits needs large [..., V], base [..., V], experts [T, ..., V] and weights [T, ...], and was given"
            f" {tuple(large.shape)}, {tuple(base.shape)}, {tuple(experts.shape)} and {tuple(weights.shape)}"
        )
    fused, weights = large.float(), weights.float()
    for expert, weight in zip(experts, weights.unsqueeze(-1), strict=True):
        if not weight.any():
            continue
        shift = logit_shift(base, expert)
        if (weight == 0).any() and not shift.sum().isfinite():
            # 0 times infinity or NaN is NaN, and a weight of 0 must leave the large model alone.
            shift = shift.masked_fill(weight == 0, 0.0)
        fused = torch.addcmul(fused, shift, weight)
    return fused
