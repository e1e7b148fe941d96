"""Task arithmetic: one model from several experts of the same base (Ilharco et al. 2023, arXiv 2212.04089)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from logitfusion.errors import UserError
from logitfusion.integrity import check_files
from logitfusion.models.adapters import put_on
from logitfusion.models.checkpoint import find_base
from logitfusion.models.finite import refuse_damaged
from logitfusion.models.load import load_model

CPU = torch.device("cpu")
# The weights of an expert: from a tensor's name and the base's tensor of that name.
Expert = Callable[[str, Tensor], Tensor]


@torch.no_grad()
def merge_experts(base: str | Path, experts: Sequence[str | Path], scale: float) -> PreTrainedModel:
    """``base + scale * sum_t (expert_t - base)`` over all weights, fp32.

    Whole experts are read tensor by tensor, and of adapters the change of one tensor is made at a time, so that no
    second model is in memory (but where transformers names an expert's tensors otherwise than its file does).

    Raises:
        UserError: an expert whose tensors have other names or shapes than those of the base, or are not finite.
    """
    merged = load_model(base, device=CPU, dtype=torch.float32)
    sums = merged.state_dict()
    # Tied weights share memory and are listed under each of their names: add to each memory once.
    first: dict[int, str] = {}
    ties = {name: first.setdefault(value.data_ptr(), name) for name, value in sums.items()}
    adapted: PreTrainedModel = merged
    with ExitStack() as files:
        parts: list[Expert] = []
        for number, expert in enumerate(map(Path, experts)):
            check_files(expert)
            if find_base(expert) is not None:
                adapted = put_on(adapted, expert, f"expert_{number}")
                parts.append(_read_adapter(merged, f"expert_{number}"))
            else:
                parts.append(_read_whole(expert, base, sums, ties, files))
        for name in dict.fromkeys(ties.values()):
            original = sums[name].clone()
            for part in parts:
                sums[name].add_(scale * (part(name, original) - original))
    if isinstance(adapted, PeftModel):
        adapted.unload()  # the layers are the base's own again
    return merged


def _read_adapter(model: PreTrainedModel, adapter: str) -> Expert:
    """An expert that is an adapter on the layers of a model."""
    layers = {f"{name}.weight": layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}

    def read(name: str, original: Tensor) -> Tensor:
        layer = layers.get(name)
        if layer is None or adapter not in layer.lora_A:
            return original
        return original + layer.get_delta_weight(adapter).to(original.dtype)

    return read


def _read_whole(
    folder: Path, base: str | Path, sums: Mapping[str, Tensor], ties: Mapping[str, str], files: ExitStack
) -> Expert:
    """An expert that is a whole model, out of its files where these name its tensors as the model does."""
    paths = sorted(folder.glob("*.safetensors"))
    refuse_damaged(paths)
    opened = [files.enter_context(safe_open(path, framework="pt")) for path in paths]
    places = {name: file for file in opened for name in file.keys()}  # noqa: SIM118 (no mapping)
    tied = {name for name, one in ties.items() if name != one}
    if not opened or places.keys() | tied != sums.keys() | tied or not sums.keys() - tied <= places.keys():
        values = load_model(folder, device=CPU, dtype=torch.float32).state_dict()
        shapes, get = {name: list(value.shape) for name, value in values.items()}, values.__getitem__
    else:
        shapes = {name: file.get_slice(name).get_shape() for name, file in places.items()}

        def get(name: str) -> Tensor:
            return places[name].get_tensor(name).float()

    _refuse_other_shapes(
        base, {name: list(sums[name].shape) for name in sums if name in shapes or name not in tied}, folder, shapes
    )
    for name in tied & shapes.keys():
        if not torch.equal(get(name), get(ties[name])):
            raise UserError(
                f"The expert in {folder} can't be merged with the base in {base}, which ties {name} to {ties[name]} as"
                " the expert does not; merge experts that were trained from this base."
            )
    return lambda name, _: get(name)


def _refuse_other_shapes(
    base: str | Path, shapes: Mapping[str, list[int]], expert: Path, found: Mapping[str, list[int]]
) -> None:
    wrong = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise UserError(
            f"The expert in {expert} can't be merged with the base in {base}: {len(wrong)} of its tensors are others"
            f" (such as {name}: {found.get(name, 'absent')}, not {shapes.get(name, 'there')}); merge experts that were"
            " trained from this base."
        )
