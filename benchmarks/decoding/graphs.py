"""What replaying the steps of several models takes, with nothing in between: the floor of decoding by CUDA graphs."""

from __future__ import annotations

from typing import Any

import torch

from decoding.measure import Fusion
from logitfusion.fusion.graphs import StaticStep
from timing import time_rounds

STEPS = 32  # that are timed together


def bench_graph(fusion: Fusion, batch: int, rounds: int) -> dict[str, Any]:
    """Of the large model alone, and with base and experts; by the graphs that decoding captured.

    Raises:
        RuntimeError: a model has none.
    """
    prompts, fused = (fusion.prompts * batch)[:batch], fusion.fused()
    fused.generate(prompts, max_new_tokens=int(fusion.graphs.patience) + 4, batch_size=batch)
    if reasons := sorted(set(filter(None, fusion.graphs.obstacles.values()))):
        raise RuntimeError(f"a model decodes without a graph ({'; '.join(reasons)})")
    steps = [fusion.graphs.steps[number, model.identity] for number, model in enumerate(fused.cached_models())]
    times = {name: _time(some, rounds) for name, some in {"large alone": steps[:1], "fused": steps}.items()}
    return {"pair": fusion.name, "batch": batch, "milliseconds a step": times}


@torch.inference_mode()
def _time(steps: list[StaticStep], rounds: int) -> list[float]:
    """Milliseconds of a step of some models in each round."""

    def replay() -> None:
        for step in steps:
            step.rewind(step.length - STEPS)
        for _ in range(STEPS):
            for step in steps:
                step.advance()

    seconds, _ = time_rounds({"graph": replay}, rounds, steps[0].ids.device)
    return [1e3 * value / STEPS for value in seconds["graph"]]
