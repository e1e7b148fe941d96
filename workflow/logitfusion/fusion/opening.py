"""The models of a fusion from their folders, each on its device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from logitfusion.config.loading import Attention, Dtype
from logitfusion.models.adapter_kinds import is_plain
from logitfusion.models.adapters import load_adapted, load_expert, load_sharing
from logitfusion.models.checkpoint import find_base, is_adapter
from logitfusion.models.device_maps import DeviceMap, assign_devices


class Opened(NamedTuple):
    """The models of a fusion, as ``FusedLM`` takes them."""

    large: PreTrainedModel
    base: PreTrainedModel | None = None
    experts: Sequence[PreTrainedModel] | Sequence[str] = ()


def open_folders(
    large: str | Path,
    base: str | Path | None,
    experts: Sequence[str | Path],
    device_map: str | int | torch.device | None,
    *,
    dtype: Dtype | torch.dtype,
    attention: Attention,
) -> Opened:
    """Load the models of a fusion; see ``FusedLM.from_folders``.

    Raises:
        UserError: folders that hold no such models, or models that do not fit the GPUs.
    """

    def load(folder: str | Path, place: DeviceMap | None, on: str | Path | None = None) -> PreTrainedModel:
        options = {"dtype": dtype, "attention": attention, "device_map": place}
        return load_expert(folder, **options) if on is None else load_adapted(on, folder, **options)

    if not experts or base is None:
        (place,) = assign_devices([large], device_map, dtype)
        return Opened(load(large, place))
    adapted = [_adapts(folder, base) for folder in experts]
    if all(adapted) and all(map(is_plain, experts)):
        first, second = assign_devices([large, base], device_map, dtype)
        if sharing := load_sharing(base, experts, dtype=dtype, attention=attention, device_map=second):
            return Opened(load(large, first), *sharing)
    whole = [base if on_base else folder for folder, on_base in zip(experts, adapted, strict=True)]
    first, second, *others = assign_devices([large, base, *whole], device_map, dtype)
    loaded = [
        load(folder, place, base if on_base else None)
        for folder, on_base, place in zip(experts, adapted, others, strict=True)
    ]
    return Opened(load(large, first), load(base, second), loaded)


def _adapts(folder: str | Path, base: str | Path) -> bool:
    """Whether a folder holds an adapter for this base; one that a stage wrote says which base it is of."""
    named = find_base(folder)
    return is_adapter(folder) and (named is None or named.resolve() == Path(base).resolve())
