"""The folder of a model that was trained: whole, or its adapter alone, with the record and the loss curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.files import whole
from logitfusion.integrity import RECORD, as_rows, record_files
from logitfusion.models.adapters import save_adapter
from logitfusion.models.identity import hash_recorded
from logitfusion.models.load import copy_tokenizer, describe, save_model
from logitfusion.models.reference import describe_recorded
from logitfusion.provenance import record
from logitfusion.training.curve import write_curve, write_evaluations


def write_trained(
    output: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    base: Path,
    made_with: dict[str, Any],
    curve: list[dict[str, float]],
    evaluations: Sequence[Mapping[str, float]] = (),
) -> None:
    """Write a trained model; of one that was trained by LoRA its adapter, which is read beside its base.

    Args:
        output: the folder.
        model: what the training returned.
        tokenizer: of the base.
        base: the folder that the training began from.
        made_with: what decided the training, for the record.
        curve: the losses.
        evaluations: what was found in those that were made meanwhile.
    """
    with whole(output) as folder:
        folder.mkdir()
        if isinstance(model, PeftModel):
            save_adapter(model, tokenizer, folder, base, output)
            facts = describe_recorded(base) | {"trained_parameters": _count_trained(model)}
            facts["base_weights"] = hash_recorded(base)  # which alone the adapter is read with
        else:
            save_model(model, tokenizer, folder, model.dtype)
            copy_tokenizer(base, folder)
            facts = describe(model)
        write_curve(folder / "curve.csv", curve)
        if evaluations:
            write_evaluations(folder / "evaluations.csv", evaluations)
        record(folder / RECORD, made_with, files=as_rows(record_files(folder)), **facts)


def _count_trained(model: PeftModel) -> int:
    return sum(value.numel() for name, value in model.named_parameters() if "lora_" in name)
