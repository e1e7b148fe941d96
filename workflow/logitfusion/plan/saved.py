"""What autograd keeps of a forward for the backward, by running it on tensors that have shapes and no bytes.

So the count is right for any architecture, with autocast's copies of weights and the adapters of LoRA in it.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from transformers import PreTrainedConfig

from logitfusion.models.adapters import add_adapters
from logitfusion.plan.measure import EXPERTS, build, read_config
from logitfusion.plan.training import Activations, Forward

# Layers of the smaller of two models that tell what each layer keeps.
_FEW = 2


def count_saved(facts: dict[str, Any], forward: Forward, tokens: int) -> Activations:
    """What a training's forward keeps, exact at texts of ``tokens`` tokens and close to it around that.

    Args:
        facts: the model's ``config.json``.
    """
    return _fit(json.dumps(facts, sort_keys=True), forward, max(8, tokens))


@functools.lru_cache(maxsize=256)
def _fit(facts: str, forward: Forward, tokens: int) -> Activations:
    config = read_config(json.loads(facts), "The model")
    text = config.get_text_config(decoder=True)
    if _alike(text) and text.num_hidden_layers > 2 * _FEW:  # each layer keeps the same: two models of a few layers tell
        few, more = (_fit_layers(cut_layers(json.loads(facts), count), forward, tokens) for count in (_FEW, 2 * _FEW))
        steps = (text.num_hidden_layers - _FEW) / _FEW
        return Activations(*(a + steps * (b - a) for a, b in zip(few, more, strict=True)))
    return Activations(*_fit_layers(json.loads(facts), forward, tokens))


def _alike(text: PreTrainedConfig) -> bool:
    """Whether all layers are of one kind."""
    if len(set(getattr(text, "layer_types", None) or ["one"])) > 1:
        return False
    return not any(getattr(text, name, None) for name in EXPERTS)  # mixtures may have layers without experts


def cut_layers(facts: dict[str, Any], layers: int) -> dict[str, Any]:
    """A model's ``config.json`` with fewer layers, the first ones."""
    if isinstance(inner := facts.get("text_config"), dict):
        return facts | {"text_config": cut_layers(inner, layers)}
    names = [name for name in ("n_layer", "n_layers", "num_layers") if name in facts] or ["num_hidden_layers"]
    kinds = facts.get("layer_types")
    return facts | dict.fromkeys(names, layers) | ({"layer_types": kinds[:layers]} if kinds else {})


def _fit_layers(facts: dict[str, Any], forward: Forward, tokens: int) -> tuple[float, float, float]:
    with torch.device("meta"):
        model = build(read_config(facts, "The model"), "The model", getattr(torch, forward.dtype))
        if forward.attention == "eager":
            model.set_attn_implementation("eager")
        model = add_adapters(model, forward.lora, 0).train()
    if forward.attention == "eager":
        lengths = (tokens // 4, tokens // 2, tokens)
        return _parabola(lengths, [trace(model, 1, length, autocast=forward.autocast) for length in lengths])
    half, whole = (trace(model, 1, length, autocast=forward.autocast) for length in (tokens // 2, tokens))
    token = (whole - half) / (tokens - tokens // 2)
    return whole - token * tokens, token, 0.0


def trace(model: nn.Module, rows: int, tokens: int, *, autocast: bool) -> int:
    """Bytes of all distinct storages but the parameters that autograd keeps, of a forward that makes one row of logits.

    Args:
        model: on the device ``meta``; it is run as on the CPU, whose kernels keep what those of a GPU keep.
    """
    kept: dict[int, Tensor] = {}  # by its storage, which lives as long as the tensor
    with FakeTensorMode(), torch.device("cpu"):
        values = {
            name: torch.empty(value.shape, dtype=value.dtype, requires_grad=value.requires_grad)
            for name, value in (*model.named_parameters(), *model.named_buffers())
        }
        own = {value.untyped_storage()._cdata for value in values.values()}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()._cdata
            if storage not in own:
                kept.setdefault(storage, tensor)
            return tensor

        ids = torch.zeros(rows, tokens, dtype=torch.long)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False, "logits_to_keep": 1}
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast),
        ):
            output = functional_call(model, values, kwargs=inputs)
        count = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        del output
    return count


def _parabola(lengths: tuple[int, ...], counts: list[int]) -> tuple[float, float, float]:
    """The coefficients of the parabola through three points, lowest power first."""
    (x, y, z), (a, b, c) = lengths, counts
    first, second = (b - a) / (y - x), (c - b) / (z - y)
    pair = (second - first) / (z - x)
    token = first - pair * (x + y)
    return a - token * x - pair * x**2, token, pair
