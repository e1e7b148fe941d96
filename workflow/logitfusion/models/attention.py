"""Whether a model can compute its attention as it is asked to, said before its weights are read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.auto_factory import _get_model_class
from transformers.utils import is_flash_attn_2_available

from logitfusion.config.loading import Attention
from logitfusion.errors import UserError

_ADVICE = "use attention: auto"


def refuse_attention(
    folder: str | Path, attention: Attention, dtype: torch.dtype, devices: Iterable[torch.device | int | str]
) -> None:
    """Refuse an attention that the architecture, the precision, the devices or the installed packages do not have.

    transformers would compute another one, or fetch one from the hub.

    Args:
        folder: of the model.
        attention: that is asked for; ``"auto"`` and ``"eager"`` are always there.
        dtype: of the weights.
        devices: that the model is put on.

    Raises:
        UserError: says which of these lacks it, or that there is no such attention.
    """
    if attention not in (*get_args(Attention), None):
        names = ", ".join(get_args(Attention))
        raise UserError(f"The attention {attention!r} does not exist: use one of {names}.")
    if attention in ("auto", "eager", None):
        return
    kind = _find_class(folder)
    if kind is None:
        return
    title = f"The model in {folder} ({kind.__name__}) can't be computed with attention: {attention}"
    if attention == "sdpa" and not kind._supports_sdpa:
        raise UserError(f"{title}, which its architecture does not have; use attention: eager.")
    if attention != "flash_attention_2":
        return
    if not kind._supports_flash_attn:
        raise UserError(f"{title}, which its architecture does not have; {_ADVICE}.")
    if any(torch.device(device).type != "cuda" for device in devices):
        raise UserError(f"{title}, which needs an NVIDIA GPU; {_ADVICE}.")
    if dtype not in (torch.bfloat16, torch.float16):
        raise UserError(f"{title} in float32; set dtype: bfloat16, or {_ADVICE}.")
    if not is_flash_attn_2_available():
        raise UserError(f"{title}: the package flash-attn is not installed here, so install it, or {_ADVICE}.")


def _find_class(folder: str | Path) -> type[PreTrainedModel] | None:
    """The class that transformers has for a model; None where there is none, which loading explains."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return _get_model_class(config, AutoModelForCausalLM._model_mapping)
    except (KeyError, OSError, ValueError):
        return None
