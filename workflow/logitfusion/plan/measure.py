"""A model's numbers out of its ``config.json`` alone: it is built on ``meta``, where tensors have no bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.pytorch_utils import Conv1D

from logitfusion.errors import UserError, first_line
from logitfusion.models.architecture import context_length, count_vocabulary, text_config
from logitfusion.models.layers import refuse_endless
from logitfusion.plan.size import ITEM, CachedLayer, ModelSize

# What architectures call the experts of a mixture, and how many of them a token is sent to.
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts")


def read_config(facts: dict[str, Any], title: str) -> PreTrainedConfig:
    """The config of an architecture that transformers has.

    Args:
        facts: what ``config.json`` holds.
        title: the model, as the beginning of a sentence.

    Raises:
        UserError: an architecture that transformers does not have, or values that it can't use.
    """
    if not isinstance(facts, dict):
        raise UserError(f"{title} has a config.json that can't be used (it is no table of names and values).")
    refuse_endless(facts, title)
    kind = str(facts.get("model_type"))
    if kind not in CONFIG_MAPPING:
        own = "needs Python code that comes with it, which is never run"
        reason = own if "auto_map" in facts else f"is of an architecture that transformers does not have here ({kind})"
        raise UserError(f"{title} {reason}; use a model of an architecture that transformers has.")
    if "torch_dtype" in facts:  # what files of earlier versions call it
        facts = {"dtype": facts["torch_dtype"]} | facts
    try:
        return CONFIG_MAPPING[kind].from_dict(facts)
    except Exception as error:  # each architecture checks its own values
        raise UserError(f"{title} has a config.json that can't be used ({first_line(error)}).") from error


def build(config: PreTrainedConfig, title: str, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The model without weights, wherever ``torch.device`` says.

    Raises:
        UserError: the architecture is no causal language model.
    """
    try:
        return AutoModelForCausalLM.from_config(config, dtype=dtype or torch.float32)
    except Exception as error:
        raise UserError(
            f"{title} can't be built as a causal language model ({first_line(error)}); use one that transformers has."
        ) from error


def measure(config: PreTrainedConfig, title: str = "The model") -> ModelSize:
    """A model's numbers.

    Raises:
        UserError: the architecture is no causal language model.
    """
    dtype = name_dtype(config)  # building a model changes its config
    with torch.device("meta"):
        model = build(config, title).eval()
        cache = _measure_cache(model)
    text = text_config(model)
    ends = {id(layer.weight): layer.weight for layer in _ends(model)}
    matrices = list(adapted_matrices(model))
    parameters = sum(value.numel() for value in model.parameters())
    limit = context_length(model)
    return ModelSize(
        parameters=parameters,
        active=parameters - _left_out(model),
        linear=sum(rows * columns for rows, columns in matrices),
        embedding=sum(weight.numel() for weight in ends.values()),
        layer=max((sum(value.numel() for value in layer.parameters()) for layer in _layers(model)), default=parameters),
        adapted=sum(map(sum, matrices)),
        hidden=text.hidden_size,
        widest=max([text.hidden_size, getattr(text, "intermediate_size", None) or 0, *map(max, matrices)]),
        heads=getattr(text, "num_attention_heads", 1),
        vocabulary=count_vocabulary(model),
        cache=cache,
        context=int(limit) if math.isfinite(limit) else None,
        dtype=dtype,
    )


def name_dtype(config: PreTrainedConfig) -> str:
    """The dtype that a checkpoint's config names; fp32 where it names none."""
    dtype = config.dtype or config.get_text_config(decoder=True).dtype
    name = str(dtype).removeprefix("torch.")
    return name if name in ITEM else "float32"


def adapted_matrices(model: PreTrainedModel) -> Iterator[tuple[int, int]]:
    """Inputs and outputs of every linear layer but the output layer: those that LoRA adapts."""
    output = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, (nn.Linear, Conv1D)) and module is not output:
            yield tuple(module.weight.shape)


def _ends(model: PreTrainedModel) -> list[nn.Module]:
    return [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    """The decoder layers: the longest list of modules of which each holds parameters of its own."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=lambda found: sum(p.numel() for p in found.parameters()), default=[]))


def _left_out(model: PreTrainedModel) -> int:
    """Parameters of a mixture's experts that a token is not sent to."""
    text = text_config(model)
    count = next((getattr(text, key) for key in EXPERTS if getattr(text, key, None)), 1)
    chosen = next((getattr(text, key) for key in _CHOSEN if getattr(text, key, None)), 1)
    if count <= 1:
        return 0
    experts = {id(p): p.numel() for name, p in model.named_parameters() if ".experts." in name}
    return int(sum(experts.values()) * (1 - min(chosen, count) / count))


@torch.no_grad()
def _measure_cache(model: PreTrainedModel) -> tuple[CachedLayer, ...]:
    """What each layer keeps, after two tokens were read; layers with a state of their own keep nothing a token."""
    cache = DynamicCache(config=model.config)
    try:
        model(input_ids=torch.zeros(1, 2, dtype=torch.long), past_key_values=cache, use_cache=True, logits_to_keep=1)
    except Exception:  # an architecture that can't be run without bytes, or without such a cache
        return _cache_by_config(model)
    found = []
    for layer in cache.layers:
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        known = keys is not None and values is not None and keys.numel()
        width = (keys.numel() + values.numel()) // 2 if known else 0
        found.append(CachedLayer(width, getattr(layer, "sliding_window", None)))
    return tuple(found)


def _cache_by_config(model: PreTrainedModel) -> tuple[CachedLayer, ...]:
    text = text_config(model)
    heads = getattr(text, "num_attention_heads", 1)
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    width = 2 * (getattr(text, "num_key_value_heads", None) or heads) * size
    return (CachedLayer(width),) * text.num_hidden_layers
