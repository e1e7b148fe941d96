"""Whether a folder holds a whole checkpoint that fits its architecture.

transformers completes one that does not with random numbers and says so in a report that nobody reads.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from logitfusion.errors import UserError, first_line
from logitfusion.files import read_json
from logitfusion.integrity import check_file, read_record, refuse_gone
from logitfusion.models.layers import refuse_endless

INDEX = "model.safetensors.index.json"
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.gguf")
# Towers and their projectors, which a text model leaves out.
_OTHER_SENSES = (
    r"(^|\.)(vision|visual|image|video|audio|speech)(_|\.)|(^|\.)(multi_modal|multimodal|mm|embed_vision|embed_audio)"
)
# A part of a tensor's name, and what such checkpoints are; the first that is found.
_KINDS = {
    r"^(module\.)?_orig_mod\.": "it was saved from a compiled module, so take the prefix '_orig_mod.' off the names",
    r"^module\.": "it was saved from DataParallel or DeepSpeed, so take the prefix 'module.' off the names",
    r"^_fsdp_wrapped_module\.|^_forward_module\.|^_flat_param": "it was saved from inside a training wrapper, so"
    " save the model itself",
    r"^base_model\.model\.|\.lora_[AB]\.|\.base_layer\.": "it was saved with an adapter in it, so merge that first",
    r"^pretrained_model\.|^v_head\.": "it was saved with a value head, so save the language model alone",
    r"(^|\.)(score|classifier|classification_head|qa_outputs|reward_head|value_head|regression_head)\.": "it is a"
    " classifier or reward model, not a language model",
    _OTHER_SENSES: "it is a multimodal model whose text model lies elsewhere, so save that alone",
    r"(^|\.)encoder\.(block|layers?)\.": "it is an encoder or an encoder-decoder model, which can't be used",
    r"\.(qweight|qzeros|scales|absmax|SCB|weight_scale|weight_packed)": "its weights are quantised and its config does"
    " not say how, so use others",
}


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds an adapter, as peft saves it, and no weights of a whole model.

    A config.json may lie beside it, as trainers leave it.
    """
    return (Path(folder) / "adapter_config.json").is_file() and not holds_weights(folder)


def find_base(folder: str | Path) -> Path | None:
    """The folder of the base of an adapter that a stage wrote; None of all other folders.

    Such adapters name their base by a path relative to their own, so that a run can be moved. Others name what somebody
    called it somewhere.
    """
    folder = Path(folder)
    if not is_adapter(folder) or not was_written_here(folder):
        return None
    config = folder / "adapter_config.json"
    check_file(config)
    named = str(read_json(config)["base_model_name_or_path"])
    base = Path(os.path.normpath(folder / named))
    if folder.is_symlink() or not base.is_dir():  # somebody's own link, beside which there is no base, or another one
        base = Path(os.path.normpath(folder.resolve() / named))
    return base


def holds_weights(folder: str | Path) -> bool:
    """Whether a folder holds the weights of a whole model, in whatever format."""
    names = ("model*.safetensors", INDEX, "pytorch_model*.bin")
    return any(True for name in names for _ in Path(folder).glob(name))


def was_written_here(folder: str | Path) -> bool:
    """Whether a stage wrote the folder, so that it can be written again."""
    return "files" in (read_record(folder) or {})


def how_to_mend(folder: str | Path, needs: str) -> str:
    """What to do about a folder: whatever a stage wrote can be written again, a user's own needs what it needs."""
    return "delete the folder and run again" if was_written_here(folder) else f"it needs {needs}"


def refuse_no_checkpoint(folder: Path) -> None:
    """Refuse what is no folder of a whole model before anything is read.

    Raises:
        UserError: says what the folder holds instead.
    """
    if not folder.is_dir():
        raise UserError(f"The model {folder} is not a folder; give one with config.json and weights as safetensors.")
    refuse_gone(folder)
    if is_adapter(folder):
        raise UserError(
            f"The folder {folder} holds an adapter, not a model: give it as an expert beside its base, or merge it into"
            " its base (peft's merge_and_unload) and save the result."
        )
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"The folder {folder} holds a whole model and an adapter (adapter_config.json), and it can't be told which"
            " is meant: keep each in a folder of its own."
        )
    if not (folder / "config.json").is_file():
        if inner := _inner_folders(folder):
            raise UserError(
                f"The folder {folder} holds no model or adapter itself, but {', '.join(inner)} in it {_does(inner)}:"
                " give the one that is meant."
            )
        raise UserError(
            f"The model in {folder} has no config.json; {how_to_mend(folder, 'one beside weights as safetensors')}."
        )
    _refuse_no_safetensors(folder)
    config = read_config(folder)
    refuse_endless(config, f"The model in {folder}")
    if config.get("is_encoder_decoder"):
        raise UserError(
            f"The model in {folder} is an encoder-decoder model, which does not continue a text; use a causal language"
            " model."
        )


def _inner_folders(folder: Path) -> list[str]:
    """Where trainers put their checkpoints, and peft its named adapters; three at most."""
    found = {path.parent.name for name in ("config.json", "adapter_config.json") for path in folder.glob(f"*/{name}")}
    return sorted(found)[:3]


def _does(names: Collection[str]) -> str:
    return "does" if len(names) == 1 else "do"


def _refuse_no_safetensors(folder: Path) -> None:
    if not any(folder.glob("*.safetensors")):
        others = sorted(path.name for pattern in _OTHER_WEIGHTS for path in folder.glob(pattern))
        if others:
            raise UserError(
                f"The model in {folder} has its weights in {others[0]}, and only safetensors are read: load it where"
                " you trust it and save it with save_pretrained(folder, safe_serialization=True)."
            )
        raise UserError(
            f"The model in {folder} has no weights; {how_to_mend(folder, 'config.json and weights as safetensors')}."
        )
    if (folder / INDEX).is_file():
        shards = sorted(set(read_index(folder).values()))
        absent = [name for name in shards if not (folder / name).is_file()]
        if absent:
            raise UserError(
                f"The model in {folder} is not whole: {len(absent)} of its {len(shards)} files of weights are not there"
                f" (such as {absent[0]}); {how_to_mend(folder, 'them as well')}."
            )


def read_index(folder: Path) -> dict[str, str]:
    try:
        return dict(read_json(folder / INDEX)["weight_map"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"The file {folder / INDEX} is not an index of weights; fetch or copy it again.") from None


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model folder; empty where it can't be read (transformers says why)."""
    try:
        config = read_json(folder / "config.json")
    except (OSError, ValueError, UserError):
        return {}
    return config if isinstance(config, dict) else {}


def explain_failure(folder: Path, error: Exception) -> str:
    """The sentence for a folder that transformers can't load."""
    config, reason = read_config(folder), first_line(error)
    if "auto_map" in config and "remote_code" in str(error):
        return (
            f"The model in {folder} can't be read: it needs Python code that comes with it, which is never run; use a"
            " model of an architecture that transformers has."
        )
    if isinstance(quantised := config.get("quantization_config"), Mapping):
        method = quantised.get("quant_method", "an unknown method")
        return (
            f"The model in {folder} can't be read: its weights are quantised ({method}), which does not work here"
            f" ({reason}); use its weights before quantisation."
        )
    needs = "the config.json and the whole safetensors of a causal language model that transformers has"
    return f"The model in {folder} can't be read ({reason}); {how_to_mend(folder, needs)}."


def refuse_misfit(title: str, architecture: str, report: Mapping[str, Collection[Any]]) -> None:
    """Refuse a checkpoint that does not fit: some of the model would be random numbers, or some of it left out.

    Args:
        title: what is loaded, as the beginning of a sentence.
        architecture: the class that it was loaded into.
        report: ``missing_keys``, ``unexpected_keys``, ``mismatched_keys`` (name, shape in the file, shape of the model)
            and ``error_msgs``, as transformers returns with ``output_loading_info``. What the class itself ignores and
            tied weights are not in it.

    Raises:
        UserError: how many tensors, an example, and what such a checkpoint usually is.
    """
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    reshaped = sorted(report["mismatched_keys"], key=str)
    if not missing and not reshaped:  # the text model of a multimodal one is whole
        unexpected = [name for name in unexpected if not re.search(_OTHER_SENSES, name)]
    found = []
    if missing:
        found.append(f"{_count(missing)} missing (such as {missing[0]})")
    if unexpected:
        found.append(f"{_count(unexpected)} not part of it (such as {unexpected[0]})")
    if reshaped:
        name, stored, expected = reshaped[0]
        found.append(f"{_count(reshaped)} of another shape (such as {name}: {list(stored)}, not {list(expected)})")
    if report["error_msgs"]:
        found.append(" ".join(str(next(iter(report["error_msgs"]))).split())[:200])
    if found:
        raise UserError(
            f"{title} does not fit its architecture {architecture}: {' and '.join(found)};"
            f" {_guess(missing, unexpected, reshaped)}."
        )


def _count(names: Collection[Any]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"


def _guess(missing: list[str], unexpected: list[str], reshaped: list[Any]) -> str:
    for pattern, kind in _KINDS.items():
        if any(re.search(pattern, name) for name in unexpected):
            return f"probably {kind}"
    if missing and not unexpected and all(re.search(r"head|embed_out|output", name) for name in missing):
        return "probably it was saved without its output layer, so save it from AutoModelForCausalLM"
    if any(0 in stored for _, stored, _ in reshaped):
        return "probably DeepSpeed or FSDP saved it without gathering its weights, so save it whole"
    if reshaped:
        return "probably its config.json is of another model"
    return "probably files are lacking, or its config.json is of another model"
