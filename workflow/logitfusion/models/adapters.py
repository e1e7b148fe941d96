"""LoRA adapters: new ones to train, and trained ones as experts, several on one base that is in memory once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from logitfusion.config.training import LoRA
from logitfusion.errors import UserError
from logitfusion.models.load import first_line


def add_adapters(model: PreTrainedModel, lora: LoRA | None, seed: int) -> PreTrainedModel:
    """The model with fresh adapters, which alone are trained; the model itself where ``lora`` is None.

    Raises:
        UserError: an architecture that can't be trained so.
    """
    if lora is None:
        return model
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, settings)
    except ValueError as error:  # peft knows layers whose adapters would do nothing (Mamba's)
        raise UserError(
            f"{type(model).__name__} can't be trained by LoRA ({first_line(error)}); train it with method: full."
        ) from error


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds a LoRA adapter, as peft saves it, and no model of its own."""
    return (Path(folder) / "adapter_config.json").is_file() and not (Path(folder) / "config.json").is_file()


def load_adapters(base: PreTrainedModel, folders: Sequence[str | Path]) -> tuple[PreTrainedModel, list[str]]:
    """The base with the adapters of all folders, none merged, and the adapters' names in it.

    Raises:
        UserError: an adapter that can't be read or does not fit the base.
    """
    from peft import PeftModel

    names = [f"expert_{place}" for place in range(len(folders))]
    model: PeftModel | None = None
    for name, folder in zip(names, folders, strict=True):
        try:
            if model is None:
                model = PeftModel.from_pretrained(base, str(folder), adapter_name=name)
            else:
                model.load_adapter(str(folder), adapter_name=name)
        except Exception as error:  # peft, safetensors and torch each have their own types
            raise UserError(
                f"The adapter in {folder} can't be put on the small base ({first_line(error)});"
                " was it trained from this base?"
            ) from error
    return model.eval(), names


def load_merged(base: PreTrainedModel, folder: str | Path) -> PreTrainedModel:
    """A model of its own: the base, which is used up, with one adapter merged into it."""
    model, _ = load_adapters(base, [folder])
    return model.merge_and_unload().eval()
