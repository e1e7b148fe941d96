"""Loading and saving a model folder, and this machine's device and precision."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from logitfusion.config.loading import Attention, Dtype
from logitfusion.errors import UserError, find_memory_error, first_line
from logitfusion.integrity import check_files
from logitfusion.models.architecture import count_vocabulary, text_config
from logitfusion.models.attention import refuse_attention
from logitfusion.models.checkpoint import explain_failure, how_to_mend, read_config, refuse_misfit, refuse_no_checkpoint
from logitfusion.models.device_maps import DeviceMap, choose_device
from logitfusion.models.finite import find_not_finite, refuse_not_finite
from logitfusion.models.forward import refuse_not_causal
from logitfusion.models.layers import refuse_endless
from logitfusion.models.precision import choose_dtype

_MOST_A_BYTE = 8  # weights that a byte of a file may hold: 1-bit models' own


def use_threads() -> int:
    """Let torch use the threads that the scheduler gave (``OMP_NUM_THREADS``), else all it finds."""
    threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or (os.cpu_count() or 1)
    torch.set_num_threads(threads)
    return threads


def bf16_helps(device: torch.device) -> bool:
    """Whether bf16 products are faster than fp32 ones here (CPUs without the instructions emulate them, slowly)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    flags = Path("/proc/cpuinfo")
    if not flags.exists():
        return False
    words = set(flags.read_text().split())
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def load_model(
    folder: str | Path,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | Dtype = torch.float32,
    device_map: DeviceMap | None = None,
    attention: Attention = "auto",
) -> PreTrainedModel:
    """A causal language model from a folder of safetensors, in evaluation mode.

    Weights go from the disk to their device, tensor by tensor: the machine's memory never holds them twice, nor at all
    where they belong on a GPU.

    Args:
        folder: of a whole model.
        device: where all of it goes; by default the first GPU that is visible, else the CPU.
        dtype: ``"auto"`` is what the model's entry in the config says, else the checkpoint's own.
        device_map: modules' names and their devices instead of one device, as transformers takes it.
        attention: ``"auto"`` is transformers' choice.

    Raises:
        UserError: the folder holds no readable model, one that its weights do not fit, one that reads a text in both
            directions or has no such attention, or its weights are not those that its record is of, or not finite.
    """
    folder = Path(folder)
    refuse_no_checkpoint(folder)
    check_files(folder)
    chosen, devices = choose_dtype(folder, dtype), device_map or {"": device or choose_device()}
    refuse_attention(folder, attention, chosen, devices.values())
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=chosen,
            device_map=devices,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are in the report
            **({} if attention == "auto" else {"attn_implementation": attention}),
        )
    except Exception as error:  # safetensors, json and transformers each have their own types
        if find_memory_error(error) is not None:
            _refuse_claims(folder)
            raise
        raise UserError(explain_failure(folder, error)) from error
    refuse_misfit(f"The model in {folder}", type(model).__name__, report)
    forget_quantisation(model)
    refuse_not_finite(model, folder)
    refuse_not_causal(model.eval(), f"The model in {folder}")
    return model


def _refuse_claims(folder: Path) -> None:
    """Refuse a config.json of a far larger model than the weights beside it, for which no memory would be enough."""
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            claimed = sum(value.numel() for value in AutoModelForCausalLM.from_config(config).parameters())
    except Exception:  # sizes that no tensor can have, for one: memory is what there was too little of
        claimed = _MOST_A_BYTE * stored + 1
    if claimed > _MOST_A_BYTE * stored:
        raise UserError(
            f"The config.json of the model in {folder} is of a far larger model than its weights"
            f" ({stored / 1e6:,.1f} MB); probably a size in it is wrong."
        )


def change_precision(
    model: PreTrainedModel,
    dtype: torch.dtype,
    *,
    device: torch.device | None = None,
    device_map: DeviceMap | None = None,
    attention: Attention = "auto",
) -> PreTrainedModel:
    """The model in another precision, exactly as ``load_model`` would read it in that; see there.

    transformers chooses what stays in fp32 (the frequencies of rotary encodings, for one), which ``model.to`` does not.
    """
    devices = device_map or {"": device or choose_device()}
    refuse_attention(model.name_or_path, attention, dtype, devices.values())
    changed = type(model).from_pretrained(
        None,
        config=model.config,
        state_dict=model.state_dict(),
        dtype=dtype,
        device_map=devices,
        **({} if attention == "auto" else {"attn_implementation": attention}),
    )
    return changed.eval()


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder, padding on the left, with a padding token.

    Raises:
        UserError: the folder holds no readable tokenizer, or one that was changed since it was recorded.
    """
    check_files(folder, weights=False)
    refuse_endless(read_config(Path(folder)), f"The model in {folder}")  # which the tokenizer's class looks into
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if not isinstance(tokenizer.model_max_length, int | float):  # compared with lengths, much later
            raise TypeError(f"its model_max_length is {tokenizer.model_max_length!r}")
    except Exception as error:
        mend = how_to_mend(folder, "the tokenizer's files, as save_pretrained writes them")
        raise UserError(f"The tokenizer in {folder} can't be read ({first_line(error)}); {mend}.") from error
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def forget_quantisation(model: PreTrainedModel) -> None:
    """Let a model whose weights were dequantised while loading be saved as it is.

    transformers would write the tensors under the names of the quantised ones, and a config that says nothing of it.
    """
    conversions = getattr(model, "_weight_conversions", None) or []
    operations = [operation for conversion in conversions for operation in getattr(conversion, "operations", [])]
    if any("Dequantize" in type(operation).__name__ for operation in operations):
        del model._weight_conversions  # its architecture's own are used then


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a model as safetensors with its tokenizer.

    Args:
        model: is turned into ``dtype`` itself.
        tokenizer: of the model.
        folder: that is there.
        dtype: of the weights in the files.

    Raises:
        UserError: its weights are quantised, or not finite in this precision.
    """
    if getattr(model, "hf_quantizer", None) is not None:
        raise UserError(
            f"The model {model.name_or_path} is quantised and can't be saved in full precision; use its weights before"
            " quantisation."
        )
    if broken := find_not_finite(model.to(dtype)):
        raise UserError(
            f"The model {Path(folder).name} is not saved: {len(broken)} of its tensors are not finite in"
            f" {str(dtype).removeprefix('torch.')} (such as {broken[0]}); use sound weights, or a wider precision."
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def copy_tokenizer(source: str | Path, target: str | Path) -> None:
    """Put the tokenizer files of one model folder into another.

    Saving a loaded tokenizer may change bytes (our padding side, for one); models whose files are equal are known to
    share a vocabulary without reading it.
    """
    for file in Path(source).iterdir():
        if file.name.startswith("tokenizer") or file.name in ("chat_template.jinja", "special_tokens_map.json"):
            shutil.copyfile(file, Path(target) / file.name)  # not its mode: a cache may be read-only


def count_parameters(model: PreTrainedModel) -> int:
    """Distinct parameters (tied ones once)."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_bytes(model: PreTrainedModel) -> int:
    """What reading all weights once takes from memory (tied ones once)."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def describe(model: PreTrainedModel) -> dict[str, Any]:
    """What the log and the report say about a model."""
    return {
        "parameters": count_parameters(model),
        "layers": text_config(model).num_hidden_layers,
        "vocabulary": count_vocabulary(model),
    }
