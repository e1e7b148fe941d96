"""Kinds of adapters: which are computed here as peft computes them, which can share one base, which are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from logitfusion.errors import UserError, first_line
from logitfusion.files import read_json

if TYPE_CHECKING:
    from peft import PeftConfig

WEIGHTS = "adapter_model.safetensors"
# These change layers in place, each token for itself, so that the model with them is a model like any other.
# fmt: off
IN_PLACE = frozenset({
    "ADALORA", "ADAMSS", "BEFT", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA", "GRALORA", "HIRA",
    "HRA", "IA3", "LN_TUNING", "LOHA", "LOKR", "LORA", "MISS", "OFT", "OSF", "PEANUT", "PSOFT", "PVERA", "RANDLORA",
    "ROAD", "SHIRA", "SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VBLORA", "VERA", "WAVEFT",
})
# fmt: on
_PROMPTS = "it puts states of its own before the text"
REFUSED = {
    "ADAPTION_PROMPT": "it attends to states of its own beside the text",
    "CARTRIDGE": _PROMPTS,
    "CPT": _PROMPTS,
    "LILY": "it weighs its parts over all tokens of a text, also those that follow",
    "MULTITASK_PROMPT_TUNING": _PROMPTS,
    "POLY": "it needs the number of a task with every text",
    "PREFIX_TUNING": _PROMPTS,
    "PROMPT_TUNING": _PROMPTS,
    "P_TUNING": _PROMPTS,
    "SHADOW": "it runs a second model beside the base",
    "XLORA": "it reads every text twice, and can't keep what it read",
}
# Options of LoRA that peft applies row by row (or only while training); with all others at their defaults, adapters can
# share one base.
# fmt: off
_MIXED = frozenset({
    "alpha_pattern", "exclude_modules", "fan_in_fan_out", "init_lora_weights", "layers_pattern", "layers_to_transform",
    "lora_alpha", "lora_bias", "lora_dropout", "r", "rank_pattern", "target_modules", "use_rslora",
    # and what says nothing about the computation
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision",
    "runtime_config", "task_type",
})
# fmt: on
# How LoRA starts when it leaves the weights of its base alone (others, as PiSSA, take their start out of them).
_STARTS = (True, False, None, "gaussian", "orthogonal")


def read_adapter(folder: str | Path) -> PeftConfig:
    """The config of an adapter that can be computed.

    Raises:
        UserError: the folder holds none that can be read, or one of a kind that is not computed here.
    """
    from peft import PeftConfig  # which takes half a second, and most folders hold no adapter

    folder = Path(folder)
    if not (folder / WEIGHTS).is_file():
        other = next((path.name for path in sorted(folder.glob("adapter_model.*"))), None)
        raise UserError(
            f"The adapter in {folder} has {f'its weights in {other}' if other else 'no weights'}, and only {WEIGHTS} is"
            " read: save it with peft's save_pretrained(folder)."
        )
    try:
        given = read_json(folder / "adapter_config.json")
        kind = str(given.get("peft_type"))
        if kind in IN_PLACE:
            config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # peft and json each have their own types
        raise UserError(f"The adapter in {folder} can't be read ({first_line(error)}); save it again.") from error
    if kind not in IN_PLACE:
        reason = REFUSED.get(kind, "peft here does not know this kind")
        raise UserError(f"The adapter in {folder} is of the kind {kind}, which can't be an expert: {reason}.")
    _refuse_options(folder, config, given)
    return config


def _refuse_options(folder: Path, config: PeftConfig, given: dict[str, object]) -> None:
    known = {field.name for field in dataclasses.fields(config)}
    if unknown := [key for key, value in given.items() if value and key not in known]:
        raise UserError(
            f"The adapter in {folder} sets {unknown[0]!r}, which peft here does not know, so it would be computed"
            " otherwise than it was trained; use a newer peft."
        )
    if config.task_type not in (None, "CAUSAL_LM"):
        raise UserError(
            f"The adapter in {folder} was trained for another task ({config.task_type}) than language modelling"
            " (CAUSAL_LM), so it can't be an expert."
        )
    for option, reason in (
        ("alora_invocation_tokens", "it is switched on by tokens of the text (aLoRA)"),
        ("arrow_config", "it weighs other adapters (Arrow)"),
    ):
        if getattr(config, option, None):
            raise UserError(f"The adapter in {folder} sets {option!r} and can't be an expert: {reason}.")
    start = getattr(config, "init_lora_weights", None)
    if isinstance(start, str) and start.startswith("pissa_niter"):
        raise UserError(
            f"The adapter in {folder} starts from a random decomposition of its base ({start}), so the base that it was"
            " trained with is not known; save it with peft's path_initial_model_for_weight_conversion."
        )


def read_shapes(folder: str | Path) -> dict[str, list[int]]:
    """The names and shapes of an adapter's tensors.

    Raises:
        UserError: the file can't be read.
    """
    try:
        with safe_open(Path(folder) / WEIGHTS, framework="pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise UserError(f"The adapter in {folder} can't be read ({first_line(error)}); save it again.") from error


def is_plain(folder: str | Path) -> bool:
    """Whether an adapter is LoRA and nothing else, so that it can share its base with others, row by row of a batch.

    Raises:
        UserError: it can't be read, or is of a kind that is not computed here.
    """
    config = read_adapter(folder)
    if config.peft_type != "LORA" or config.init_lora_weights not in _STARTS:
        return False
    plain = type(config)()
    names = [field.name for field in dataclasses.fields(config) if field.name not in _MIXED]
    return all(getattr(config, name) == getattr(plain, name) for name in names) and all(
        ".lora_" in name for name in read_shapes(folder)
    )
