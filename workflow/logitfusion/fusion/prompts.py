"""What models made of prompts, kept for the next method that puts the same prompts to the same models.

Methods that are compared steer one large model by experts of one base, on the same documents: their first pass, over
the prompts, is the same, and costs more than all that follow where answers are short. Keys and values of a cache are
replaced and never written to, so a method goes on from tensors that the next one finds as they were.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from logitfusion.config.loading import KEPT_PROMPTS
from logitfusion.fusion.caches import CachedModel, CachedState

_Key = tuple[object, ...]


@dataclass(frozen=True)
class _Read:
    result: Tensor
    states: Sequence[CachedState]
    seconds: float


class PromptMemory:
    """Passes over prompts. What does not fit any more is not kept: each method asks for the same prompts in order.

    ``saved`` counts the seconds of passes that were not made again, so that a method's time can be told as it would
    have been alone.

    Args:
        limit: bytes of keys, values and logits; on a GPU also no more than half of what is free.
    """

    def __init__(self, limit: float = KEPT_PROMPTS) -> None:
        self.limit, self.saved = limit, 0.0
        self._kept: dict[_Key, _Read] = {}
        self._bytes = 0

    def read(
        self, models: Sequence[CachedModel], purpose: str, ids: Tensor, mask: Tensor, compute: Callable[[], Tensor]
    ) -> Tensor:
        """What ``compute`` gives when models that have read nothing read prompts ``ids [B, n]`` where ``mask`` is 1.

        Args:
            models: whose caches ``compute`` fills, and nothing else does.
            purpose: tells apart what is computed of the same prompts.
        """
        if not all(model.keeps_prompts for model in models):
            return compute()
        key = (purpose, *(model.identity for model in models), _digest(ids), _digest(mask))
        if key in self._kept:
            return self._recall(models, self._kept[key])
        started = _now(models[0].device)
        result = compute()
        found = _Read(result, [model.state() for model in models], _now(models[0].device) - started)
        self._keep(key, found, models)
        return result

    def clear(self) -> None:
        """Forget all prompts: those of the next task are others."""
        self._kept.clear()
        self._bytes = 0

    def _recall(self, models: Sequence[CachedModel], found: _Read) -> Tensor:
        for model, state in zip(models, found.states, strict=True):
            model.restore(state)
        self.saved += found.seconds
        return found.result

    def _keep(self, key: _Key, found: _Read, models: Sequence[CachedModel]) -> None:
        size = _count_bytes(found.result) + sum(_count_bytes(tensor) for one in found.states for tensor in one.tensors)
        if self._bytes + size > self.limit or size > _free(models[0].device) / 2:
            return
        self._kept[key] = found
        self._bytes += size
        for model in models:  # another model may get its number
            weakref.finalize(model.model, self._forget, key, size)

    def _forget(self, key: _Key, size: int) -> None:
        if self._kept.pop(key, None) is not None:
            self._bytes -= size


def _digest(tensor: Tensor) -> _Key:
    return (*tensor.shape, tensor.cpu().numpy().tobytes())


def _count_bytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _free(device: torch.device) -> float:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else float("inf")


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()
