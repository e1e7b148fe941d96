"""Task arithmetic: one model from several experts of the same base (Ilharco et al. 2023, arXiv 2212.04089)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from logitfusion.errors import UserError
from logitfusion.models.adapters import load_expert
from logitfusion.models.load import load_model


@torch.no_grad()
def merge_experts(base: str | Path, experts: Sequence[str | Path], scale: float) -> PreTrainedModel:
    """``base + scale * sum_t (expert_t - base)`` over all weights, fp32.

    Raises:
        UserError: an expert whose tensors have other names or shapes than those of the base.
    """
    merged = load_model(base, device=torch.device("cpu"))
    original = {name: value.clone() for name, value in merged.state_dict().items()}
    sums = merged.state_dict()
    # Tied weights share memory and are listed under each of their names: add to each memory once.
    first: dict[int, str] = {}
    names = [name for name, value in sums.items() if first.setdefault(value.data_ptr(), name) == name]
    for expert in experts:
        values = load_expert(expert, device=torch.device("cpu")).state_dict()
        _refuse_other_shapes(base, original, expert, values)
        ties = {name: first[value.data_ptr()] for name, value in sums.items()}
        if untied := [name for name, tied in ties.items() if not torch.equal(values[name], values[tied])]:
            raise UserError(
                f"The expert in {expert} can't be merged with the base in {base}, which ties {untied[0]} to"
                f" {ties[untied[0]]} as the expert does not; merge experts that were trained from this base."
            )
        for name in names:
            sums[name].add_(scale * (values[name] - original[name]))
    return merged


def _refuse_other_shapes(
    base: str | Path, original: Mapping[str, Tensor], expert: str | Path, values: Mapping[str, Tensor]
) -> None:
    shapes, found = ({name: list(value.shape) for name, value in part.items()} for part in (original, values))
    wrong = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise UserError(
            f"The expert in {expert} can't be merged with the base in {base}: {len(wrong)} of its tensors are others"
            f" (such as {name}: {found.get(name, 'absent')}, not {shapes.get(name, 'there')}); merge experts that were"
            " trained from this base."
        )
