"""Some decoder layers of a model as a model of its own, whatever its architecture calls them."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from logitfusion.errors import UserError, find_memory_error, first_line
from logitfusion.models.architecture import count_vocabulary, text_config

# What configs say of each layer in a list, of some layers by their numbers, and of the first layers by their count.
_EACH = re.compile(r"layer|block|_types$|_modes$|sliding_windows|^num_experts$|^num_heads$")
_NUMBERS = re.compile(r"^mlp_only_layers$|^moe_layers$|_idxs$|_ind(ices|exes)$|_layer_ids$")
_FIRST = ("first_k_dense_replace", "num_dense_layers", "n_dense_layers")
_OWN_NUMBER = re.compile(r"layer_?(idx|id|index|number)$|^idx$")


def keep_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A new model of some of a model's decoder layers, in the given order; one that is kept twice is two layers.

    It is made as a saved one is loaded, from its config and its weights, and held against the old layers themselves.

    Args:
        model: the whole model, in evaluation mode and fp32. It is used up.
        layers: numbers of layers that it has.

    Raises:
        UserError: an architecture whose layers depend on each other or on their places.
    """
    name = type(model).__name__
    try:
        return _keep_layers(model, layers)
    except Exception as error:  # whatever the architecture's code raises where a layer is not like another
        if find_memory_error(error) is not None:
            raise
        raise UserError(
            f"The layers {list(layers)} of a {name} can't be a model of their own ({first_line(error)}); keep others,"
            " or prune a model of another architecture."
        ) from error


def _keep_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    place = _find_layers(model)
    config = copy.deepcopy(model.config)
    changes = _follow(text_config(model), layers)
    for key, value in changes.items():
        setattr(config.get_text_config(decoder=True), key, value)
    with torch.random.fork_rng():
        kept = type(model)(type(config).from_dict(config.to_dict())).to(model.dtype).eval()
    kept.load_state_dict(_rename(model.state_dict(), place, layers))
    kept.config.name_or_path, kept.generation_config = model.config.name_or_path, model.generation_config
    parent, _, attribute = place.rpartition(".")
    old = model.get_submodule(place)
    for position, layer in enumerate(layers):
        _refuse_other_settings(old[layer], kept.get_submodule(place)[position])
    setattr(model.get_submodule(parent), attribute, nn.ModuleList([old[layer] for layer in layers]))
    for key, value in changes.items():
        setattr(text_config(model), key, value)
    _refuse_other_logits(model, kept)
    return kept


def _find_layers(model: PreTrainedModel) -> str:
    """The name of the one list of the decoder's layers."""
    config = text_config(model)
    if getattr(config, "num_kv_shared_layers", 0):
        raise ValueError("its layers share keys and values")
    lists = [
        name
        for name, module in model.get_decoder().named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers
    ]
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(outer) != 1:
        raise ValueError("it has no single list of decoder layers")
    prefix = next(name for name, module in model.named_modules() if module is model.get_decoder())
    return f"{prefix}.{outer[0]}".lstrip(".")


def _follow(config: PreTrainedConfig, layers: Sequence[int]) -> dict[str, Any]:
    """What a config says of layers, for those that are kept."""
    deepest = config.num_hidden_layers
    changes: dict[str, Any] = {"num_hidden_layers": len(layers)}
    for key, value in config.to_dict().items():
        if isinstance(value, (list, tuple)) and _NUMBERS.search(key):
            changes[key] = [place for place, layer in enumerate(layers) if layer in value]
        elif isinstance(value, (list, tuple)) and len(value) == deepest and _EACH.search(key):
            changes[key] = [value[layer] for layer in layers]
        elif key in _FIRST and value:
            changes[key] = sum(layer < value for layer in layers)
    return changes


def _rename(weights: dict[str, Tensor], place: str, layers: Sequence[int]) -> dict[str, Tensor]:
    renamed = {key: value for key, value in weights.items() if not key.startswith(f"{place}.")}
    for position, layer in enumerate(layers):
        before = f"{place}.{layer}."
        for key in [key for key in weights if key.startswith(before)]:
            renamed[f"{place}.{position}.{key.removeprefix(before)}"] = weights[key]
    return renamed


def _refuse_other_settings(old: nn.Module, new: nn.Module) -> None:
    """Refuse a layer that became another in its new place: a window, a position encoding, a kind of attention."""
    for (name, before), (_, after) in zip(old.named_modules(), new.named_modules(), strict=True):
        for key, value in vars(before).items():
            plain = isinstance(value, (bool, int, float, str, list, tuple, type(None)))
            if plain and not key.startswith("_") and not _OWN_NUMBER.search(key) and vars(after).get(key) != value:
                raise ValueError(f"{name or 'a layer'} has another {key} in its new place")


@torch.no_grad()
def _refuse_other_logits(old: PreTrainedModel, new: PreTrainedModel) -> None:
    ids = (torch.arange(2 * 24, device=old.device).view(2, -1) * 7 + 3) % min(count_vocabulary(old), 997)
    before, after = (model(input_ids=ids, use_cache=False).logits for model in (old, new))
    if not torch.allclose(before, after, rtol=1e-4, atol=1e-4 * float(before.abs().max())):
        raise ValueError("what its layers compute depends on their places")
