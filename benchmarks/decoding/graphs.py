"""A step of several models as one CUDA graph: what it costs when the host launches nothing but the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, StaticCache

from decoding.measure import Fusion
from decoding.naive import proxy_tuning
from timing import time_rounds

STEPS = 32  # that are timed together
_WARM = 3


class StaticStep:
    """One token after another in tensors that stay where they are: caches of a fixed length, no host in between.

    Several models, the large one first, go on by proxy-tuning, whose weights need no search; one goes on alone.

    Attributes:
        newest: ``[B, 1]``, the last token of each row.
    """

    def __init__(self, models: list[PreTrainedModel], prompts: Tensor, length: int) -> None:
        self.models = models
        self.caches = [StaticCache(config=model.config, max_cache_len=length) for model in models]
        self.positions = torch.arange(prompts.shape[1], device=prompts.device).expand(len(prompts), -1)
        self.newest = self._read(prompts)
        self.positions = self.positions[:, -1:] + 1

    @torch.no_grad()
    def __call__(self) -> None:
        self.newest.copy_(self._read(self.newest))
        self.positions.add_(1)

    @torch.no_grad()
    def _read(self, ids: Tensor) -> Tensor:
        """The next tokens ``[B, 1]``."""
        logits = []
        for model, cache in zip(self.models, self.caches, strict=True):
            inputs = {"input_ids": ids, "position_ids": self.positions, "past_key_values": cache}
            logits.append(model(**inputs, use_cache=True, logits_to_keep=1).logits[:, -1])
        shared = min(part.shape[-1] for part in logits)
        large, *others = (part[:, :shared] for part in logits)
        fused = proxy_tuning(large, others[0], torch.stack(others[1:])) if others else large
        return fused.argmax(-1, keepdim=True)


def can_capture(fusion: Fusion) -> bool:
    """Whether it has what a graph takes here: a GPU, whole models, prompts of one length."""
    adapters = any(adapter is not None for _, adapter in fusion.members())
    return fusion.large.device.type == "cuda" and not adapters and len(set(map(len, fusion.prompts))) == 1


def bench_graph(fusion: Fusion, batch: int, rounds: int) -> dict[str, Any]:
    """The large model alone, and with base and experts, which are whole models; prompts are of one length."""
    prompts = torch.tensor((fusion.prompts * batch)[:batch], device=fusion.large.device)
    models = [model for model, _ in fusion.members()]
    ways = {"large alone": models[:1], "fused": models}
    times = {name: _time(chosen, prompts, rounds) for name, chosen in ways.items()}
    return {"pair": fusion.name, "batch": batch, "milliseconds a step": times}


def _time(models: list[PreTrainedModel], prompts: Tensor, rounds: int) -> list[float]:
    """Milliseconds of a step in each round, replayed."""
    length = prompts.shape[1] + _WARM + (rounds + 1) * STEPS + 1
    replay = _capture(StaticStep(models, prompts, length))
    seconds, _ = time_rounds({"graph": lambda: [replay() for _ in range(STEPS)]}, rounds, prompts.device)
    return [1e3 * value / STEPS for value in seconds["graph"]]


def _capture(step: StaticStep) -> Callable[[], None]:
    """The step as a graph, after some on a stream of its own, as PyTorch asks for."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
