"""What autograd keeps of a forward for the backward, by running it on tensors that have shapes and no bytes.

So the count is right for any architecture, with autocast's copies of weights and the adapters of LoRA in it.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from logitfusion.config.training import LoRA
from logitfusion.models.adapters import add_adapters
from logitfusion.plan.measure import build, read_config


@dataclass(frozen=True)
class SavedBytes:
    """Bytes that a forward keeps: ``fixed + rows * (token * tokens + pair * tokens ** 2)``.

    They are of all layers but the logits, which a loss makes of some positions only.
    """

    fixed: float
    """Whatever the batch: copies of weights in half precision."""
    token: float
    """For each token."""
    pair: float
    """For each pair of tokens of a text: masks, and attention that keeps its products."""

    def at(self, rows: int, tokens: int) -> float:
        """Of a batch."""
        return self.fixed + rows * (self.token * tokens + self.pair * tokens**2)


@dataclass(frozen=True)
class Forward:
    """How a model is run while it trains."""

    dtype: str = "float32"
    """Of its weights."""
    autocast: bool = True
    """Products in bf16."""
    lora: LoRA | None = None
    """Adapters, which alone are trained; None: all weights are."""
    attention: str = "sdpa"
    """The kernels; those of flash attention keep what sdpa's keep."""


def count_saved(facts: dict[str, object], forward: Forward, tokens: int) -> SavedBytes:
    """What a training's forward keeps, exact at texts of ``tokens`` tokens and close to it around that.

    Args:
        facts: the model's ``config.json``.
    """
    return _fit(json.dumps(facts, sort_keys=True), forward, max(8, tokens))


@functools.lru_cache(maxsize=256)
def _fit(facts: str, forward: Forward, tokens: int) -> SavedBytes:
    lengths = (tokens // 4, tokens // 2, tokens)
    with torch.device("meta"):
        model = build(read_config(json.loads(facts), "The model"), "The model", getattr(torch, forward.dtype))
        if forward.attention == "eager":
            model.set_attn_implementation("eager")
        model = add_adapters(model, forward.lora, 0).train()
    counts = [trace(model, 1, length, autocast=forward.autocast) for length in lengths]
    return SavedBytes(*_parabola(lengths, counts))


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
