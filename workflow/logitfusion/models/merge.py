"""Task arithmetic: one model from several experts of the same base (Ilharco et al. 2023, arXiv 2212.04089)."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from logitfusion.models.load import load_model


@torch.no_grad()
def merge_experts(base: str | Path, experts: list[str | Path], scale: float) -> PreTrainedModel:
    """``base + scale * sum_t (expert_t - base)`` over all weights, fp32."""
    merged = load_model(base, device=torch.device("cpu"))
    original = {name: value.clone() for name, value in merged.state_dict().items()}
    sums = merged.state_dict()
    # Tied weights share memory and are listed under each of their names: add to each memory once.
    seen: set[int] = set()
    names = [name for name, value in sums.items() if not (value.data_ptr() in seen or seen.add(value.data_ptr()))]
    for expert in experts:
        values = load_model(expert, device=torch.device("cpu")).state_dict()
        for name in names:
            sums[name].add_(scale * (values[name] - original[name]))
    return merged
