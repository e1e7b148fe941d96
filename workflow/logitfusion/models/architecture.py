"""What differs between architectures of causal language models: sizes, limits, caches, position encodings.

Multimodal models keep what is about text in a config of their own (``text_config``), so nobody reads these numbers from
``model.config`` directly.
"""

from __future__ import annotations

import inspect
import math

from torch import nn
from transformers import DynamicCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionCacheLayerMixin

# Linear biases (ALiBi), which come from the attention mask.
_POSITIONS_BY_MASK = ("bloom", "mpt")
# Attention that looks at how many slots of the cache are between two tokens, whether or not the slots still count.
_DISTANCES_BY_SLOT = ("gpt_neo", "mpt")
# Recurrent models that keep their state elsewhere than in transformers' cache.
_OWN_STATE = ("minimax", "recurrent_gemma")


def text_config(model: PreTrainedModel) -> PreTrainedConfig:
    """The config of the decoder that reads text."""
    return model.config.get_text_config(decoder=True)


def count_vocabulary(model: PreTrainedModel) -> int:
    """Entries of a model's logits; may be more than its tokenizer has tokens."""
    return text_config(model).vocab_size


def context_length(model: PreTrainedModel) -> float:
    """The most tokens that a model reads; infinite where its config names no limit (ALiBi, recurrent models).

    "Dynamic" rotary encodings stretch with the text, so they have no limit either.
    """
    config = text_config(model)
    if any("dynamic" in kind for kind, _ in _rope_kinds(config)):
        return math.inf
    found = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"))
    length = next((length for length in found if isinstance(length, int) and length > 0), math.inf)
    return length - _positions_of_padding(model)


def _positions_of_padding(model: PreTrainedModel) -> int:
    """Learned positions up to that of padding, which RoBERTa and its kin keep for it: texts begin behind them."""
    for name, module in model.named_modules():
        if name.endswith("embeddings.position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return module.padding_idx + 1
    return 0


def has_key_value_cache(model: PreTrainedModel) -> bool:
    """Whether a padded batch of a model can be read through a cache of keys and values.

    Three kinds of models can't: recurrent and hybrid ones (Mamba, RWKV, ...) keep a state, in which padding leaves its
    mark and from which no token can be taken back; others keep more than keys and values (sparse attention's indices);
    and some number their positions themselves, counting padding (BART's decoder) or from another place on (RoBERTa).
    """
    if hasattr(model, "get_base_model"):  # a peft model forwards whatever it is given
        model = model.get_base_model()
    parameters = inspect.signature(model.forward).parameters
    if model._is_stateful or "past_key_values" not in parameters:
        return False
    if "position_ids" not in parameters and text_config(model).model_type not in _POSITIONS_BY_MASK:
        return False
    if any(_counts_padding(name, module) for name, module in model.named_modules()):
        return False
    layers = DynamicCache(config=model.config).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def state_argument(model: PreTrainedModel) -> str | None:
    """What a recurrent or hybrid model calls its cache, if that is one of transformers' own; None of all others."""
    parameters = inspect.signature(model.forward).parameters
    layers = DynamicCache(config=model.config).layers
    recurrent = any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)
    if not recurrent or text_config(model).model_type in _OWN_STATE:
        return None
    return next((name for name in ("past_key_values", "cache_params") if name in parameters), None)


def counts_slots(model: PreTrainedModel) -> bool:
    """Whether a token that was taken back goes on counting in the distances of the tokens around it."""
    return text_config(model).model_type in _DISTANCES_BY_SLOT


def _counts_padding(name: str, module: nn.Module) -> bool:
    """Whether a table of positions has an entry for padding, so that the first token is not number 0."""
    return isinstance(module, nn.Embedding) and "position" in name and module.padding_idx is not None


def rope_limit(model: PreTrainedModel) -> float:
    """Rows that are longer than this many tokens change how the positions of *all* rows of a batch are encoded.

    Two kinds of rotary encodings look at the longest row: dynamic NTK and LongRoPE. Infinite for all others.
    """
    limits = [limit for kind, limit in _rope_kinds(text_config(model)) if "dynamic" in kind or kind == "longrope"]
    return min(limits, default=math.inf)


def reads_rows_alone(model: PreTrainedModel, longest: int) -> bool:
    """Whether rows of up to ``longest`` tokens can't share a batch with padding, because one would change another."""
    return not has_key_value_cache(model) or longest > rope_limit(model)


def restart_length(model: PreTrainedModel) -> int | None:
    """Where ``generate`` reads a growing text anew, because its longer form encodes all positions otherwise, or None.

    Phi-3 and its relatives with LongRoPE do.
    """
    config = text_config(model)
    if not any(kind == "longrope" for kind, _ in _rope_kinds(config)):
        return None
    own = type(model).prepare_inputs_for_generation is not GenerationMixin.prepare_inputs_for_generation
    return getattr(config, "original_max_position_embeddings", None) if own else None


def has_position_table(model: PreTrainedModel) -> bool:
    """Whether positions beyond ``context_length`` have no encoding at all (learned ones, as GPT-2's or OPT's)."""
    return math.isfinite(context_length(model)) and not _rope_kinds(text_config(model))


def reset_rope(model: PreTrainedModel) -> None:
    """Forget how long the texts were that a dynamic rotary encoding has seen, as a fresh model would.

    transformers keeps the frequencies of the longest text until one comes that is within the original length.
    """
    for module in model.modules():
        if hasattr(module, "max_seq_len_cached") and hasattr(module, "original_max_seq_len"):
            _reset(module)


def _reset(module: nn.Module) -> None:
    for name in [name for name, _ in module.named_buffers(recurse=False) if name.endswith("inv_freq")]:
        original = getattr(module, name.replace("inv_freq", "original_inv_freq"), None)
        if original is not None and not name.endswith("original_inv_freq"):
            module.register_buffer(name, original.to(getattr(module, name).device).clone(), persistent=False)
    for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
        setattr(module, name, module.original_max_seq_len)


def _rope_kinds(config: PreTrainedConfig) -> list[tuple[str, float]]:
    """The kinds of rotary encoding of a model (some have one for each type of layer), and their original lengths."""
    parameters = getattr(config, "rope_parameters", None) or {}
    each = [parameters] if "rope_type" in parameters else [one for one in parameters.values() if isinstance(one, dict)]
    length = getattr(config, "max_position_embeddings", None) or math.inf
    return [
        (one["rope_type"], one.get("original_max_position_embeddings") or length) for one in each if "rope_type" in one
    ]
