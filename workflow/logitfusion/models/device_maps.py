"""The GPUs that are visible, the sizes of model folders, and the device maps that come of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from logitfusion.config.loading import Dtype
from logitfusion.errors import UserError, first_line
from logitfusion.models.checkpoint import find_base, read_config
from logitfusion.models.layers import refuse_endless
from logitfusion.models.placement import Block, Sized, place_models
from logitfusion.models.precision import choose_dtype

# Modules' names and the devices they are put on; "" is the whole model.
DeviceMap = Mapping[str, torch.device | int | str]


def choose_device() -> torch.device:
    """CUDA where the job was given one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def input_device(model: PreTrainedModel) -> torch.device:
    """Where a model takes its tokens and gives its logits; one whose weights are elsewhere says where it computes."""
    device = model.device
    hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
    known = (getattr(hook, "execution_device", None) for hook in hooks if hook is not None)
    if device.type != "meta":
        return device
    return next((torch.device(device) for device in known if device is not None), device)


def free_memory() -> list[int]:
    """Bytes that are free on each visible GPU; none without one."""
    return [torch.cuda.mem_get_info(card)[0] for card in range(torch.cuda.device_count())]


def assign_devices(
    folders: Sequence[str | Path], device_map: str | int | torch.device | None, dtype: Dtype | torch.dtype
) -> list[DeviceMap | None]:
    """A device map for each model of a fusion, the large one first.

    Args:
        folders: of the models.
        device_map: ``"auto"`` parts them among all visible GPUs, a device takes them all; None leaves it to
            ``load_model``.
        dtype: that the models are loaded in.

    Raises:
        UserError: no such device, or the models do not fit the GPUs.
    """
    if device_map is None:
        return [None] * len(folders)
    if device_map == "auto":
        return place_folders(folders, free_memory(), dtype)
    try:
        device = torch.device(device_map)
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError, TypeError) as error:  # unknown, torch is not built for it, no such card
        raise UserError(
            f"The models can't be put on {device_map!r} ({first_line(error)}); use auto, cpu, or cuda:0 and the like."
        ) from None
    return [{"": device}] * len(folders)


def place_folders(
    folders: Sequence[str | Path], cards: Sequence[int], dtype: Dtype | torch.dtype
) -> list[DeviceMap | None]:
    """A device map for each model, the one that leads first; none where there are no GPUs.

    Args:
        folders: of models and adapters; an adapter is as large as its base.
        cards: bytes that are free on each GPU.
        dtype: that the models are loaded in.

    Raises:
        UserError: they do not fit the GPUs; says what would make them fit.
    """
    if not cards:
        return [None] * len(folders)
    models = [measure_folder(folder, dtype) for folder in folders]
    return [_as_map(model, places) for model, places in zip(models, place_models(models, cards), strict=True)]


def _as_map(model: Sized, places: Sequence[int]) -> DeviceMap:
    if len(set(places)) == 1:
        return {"": places[0]}  # needs no hooks
    named = zip(model.blocks, places, strict=True)
    return {module: card for block, card in named for module in block.modules}


def measure_folder(folder: str | Path, dtype: Dtype | torch.dtype = "auto") -> Sized:
    """The blocks of a model, from its config alone; of an adapter's base where the folder holds one.

    Raises:
        UserError: the config can't be read.
    """
    folder = Path(folder)
    if (base := find_base(folder)) is not None:
        return Sized(folder.name, measure_folder(base, dtype).blocks)
    refuse_endless(read_config(folder), f"The model in {folder}")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=choose_dtype(folder, dtype))
    except (KeyError, OSError, ValueError) as error:
        raise UserError(f"The model in {folder} can't be measured by its config.json ({error}).") from error
    return Sized(folder.name, measure_blocks(model))


def measure_blocks(model: PreTrainedModel) -> tuple[Block, ...]:
    """A model's blocks: its first modules, then what is never split, in the order in which the class lists it.

    Modules without weights of their own (tables of positions, an output layer that is tied to the embedding) are with
    the first: every layer asks them, or they are the first.
    """
    whole = set(model._no_split_modules or ())
    if not whole:
        return (Block(("",), sum(map(_size, model.parameters()))),)
    seen: set[int] = set()
    weighty, light = [], []
    for name, module in _walk("", model, whole):
        own = [parameter for parameter in module.parameters() if id(parameter) not in seen]
        seen |= set(map(id, own))
        if own:
            weighty.append((name, sum(map(_size, own))))
        else:
            light.append(name)
    (first, size), *others = weighty
    return (Block((first, *light), size), *(Block((name,), size) for name, size in others))


def _walk(name: str, module: nn.Module, whole: set[str]) -> Iterator[tuple[str, nn.Module]]:
    """Modules that are not split, by name: those of the classes ``whole``, and those with tensors of their own."""
    children = list(module.named_children())
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    if type(module).__name__ in whole or own or not children:
        yield name, module
        return
    for child, inner in children:
        yield from _walk(f"{name}.{child}".lstrip("."), inner, whole)


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
