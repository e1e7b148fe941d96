"""What is trained of a model, and in which precision: fp32 masters of all weights, or adapters on frozen ones."""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path

import torch
from transformers import PreTrainedModel

from logitfusion.config.training import Adaptation, LoRA, Recipe, Training
from logitfusion.errors import UserError, find_memory_error, first_line
from logitfusion.models.adapters import add_adapters, load_expert
from logitfusion.models.attention import refuse_attention
from logitfusion.models.checkpoint import is_adapter
from logitfusion.models.device_maps import choose_device
from logitfusion.models.finite import find_not_finite, refuse_damaged
from logitfusion.training.batches import is_main_process, processes
from logitfusion.training.sharding import outline, refuse_unparted

logger = logging.getLogger(__name__)


def own_device() -> torch.device:
    """The device of this process: the GPU of its number, or the CPU."""
    device = choose_device()
    return torch.device(device.type, int(os.environ.get("LOCAL_RANK", 0))) if device.type == "cuda" else device


def load_trainee(folder: str | Path, recipe: Training) -> PreTrainedModel:
    """The model that is to be trained, in its own precision, with the recipe's attention.

    One that will be parted is read by the CPU: processes of a machine share what safetensors maps into memory.

    Raises:
        UserError: see ``load_model``; or 4 bits can't be had here.
    """
    kind = recipe.quantisation if isinstance(recipe, Adaptation) else "none"
    refuse_quantisation(kind)
    if kind == "nf4":
        if is_adapter(folder):
            raise UserError(f"quantisation: nf4 reads whole models, and {folder} is an adapter; leave it out there.")
        return _load_nf4(folder, recipe.attention)
    device = torch.device("cpu") if recipe.sharded else own_device()
    return load_expert(folder, merge=True, device=device, dtype="auto", attention=recipe.attention)


def choose_attention(model: PreTrainedModel, source: str | Path, recipe: Training) -> PreTrainedModel:
    """The recipe's attention for a model that was made of the one in the folder ``source``.

    Raises:
        UserError: it can't be had here.
    """
    refuse_attention(source, recipe.attention, model.dtype, [own_device()])
    if recipe.attention != "auto":
        model.set_attn_implementation(recipe.attention)
    return model


def refuse_quantisation(kind: str) -> None:
    """Refuse weights in 4 bits where they can't be had, before anything is read.

    Raises:
        UserError: bitsandbytes is not installed, or there is no CUDA GPU.
    """
    if kind == "none":
        return
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"quantisation: {kind} needs the package bitsandbytes (pip install 'logitfusion[qlora]'); or leave it out."
        )
    if not torch.cuda.is_available():
        raise UserError(f"quantisation: {kind} needs an NVIDIA GPU, and there is none here; leave it out.")


def _load_nf4(folder: str | Path, attention: str) -> PreTrainedModel:
    """A model whose matrices are quantised while they are read (QLoRA: NF4, doubly quantised, products in bf16)."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    refuse_damaged(sorted(Path(folder).glob("*.safetensors")))  # 4 bits know no NaN: it would be some number
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, quantization_config=settings, device_map={"": own_device()},
            local_files_only=True, use_safetensors=True, trust_remote_code=False,
            **({} if attention == "auto" else {"attn_implementation": attention}),
        ).eval()  # fmt: skip
    except Exception as error:  # of bitsandbytes, safetensors and transformers
        if find_memory_error(error) is not None:
            raise
        raise UserError(f"The model in {folder} can't be read in 4 bits ({first_line(error)}).") from error


def prepare(model: PreTrainedModel, lora: LoRA | None, recipe: Recipe, name: str) -> PreTrainedModel:
    """The model as it is trained: all weights as fp32 masters, or new adapters in fp32 beside frozen weights.

    Frozen weights keep their own precision. Of a model that will be parted only the first process keeps the values.

    Raises:
        UserError: an architecture that can't be trained so; ``name`` is the training's.
    """
    if recipe.sharded:
        refuse_unparted(model, name)
    if recipe.gradient_checkpointing:
        _checkpoint_layers(model, name)
    own = str(model.dtype).removeprefix("torch.")
    others = recipe.sharded and not is_main_process()
    if lora is None:
        model = outline(model, "cpu", torch.float32) if others else model.float()
        what = f"all weights (fp32 masters of {own})"
    else:
        model = add_adapters(model, lora, recipe.seed)
        model = outline(model, "cpu") if others else model
        frozen = "4 bits (nf4)" if getattr(model, "is_loaded_in_4bit", False) else own
        what = f"adapters in fp32 beside frozen weights in {frozen}"
    _state(model, what, recipe, name)
    return model


def _state(model: PreTrainedModel, what: str, recipe: Recipe, name: str) -> None:
    """Say in one line how a model is trained."""
    active = sum(value.numel() for value in model.parameters() if value.requires_grad)
    count, share = processes(), "a part (FSDP2)" if recipe.sharded else "all"
    logger.info(
        "%s: training %s, %.2f M parameters, by AdamW with fp32 state; %s; gradient checkpointing %s; attention %s",
        name,
        what,
        active / 1e6,
        "one process" if count == 1 else f"{count} processes, each with {share} of the model",
        "on" if recipe.gradient_checkpointing else "off",
        model.config._attn_implementation,
    )


def as_saved(model: PreTrainedModel, own: torch.dtype, name: str) -> PreTrainedModel:
    """A trained model in the precision of the model it began as; adapters stay in fp32, and so does what holds them.

    Raises:
        UserError: a weight is too large for it; ``name`` is the training's.
    """
    if own == torch.float32 or hasattr(model, "peft_config"):
        return model
    model = model.to(own)
    if own == torch.float16 and find_not_finite(model):
        raise UserError(f"{name}: a trained weight is too large for float16; give the model dtype: bfloat16.")
    return model


def _checkpoint_layers(model: PreTrainedModel, name: str) -> None:
    """Compute what a layer needs for its gradient again (dropout draws the same numbers), instead of keeping it."""
    try:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except ValueError as error:
        raise UserError(
            f"{name}: {type(model).__name__} has no gradient checkpointing; set gradient_checkpointing: false."
        ) from error
