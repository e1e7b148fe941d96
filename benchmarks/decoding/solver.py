"""The solver alone, and its share of a fused step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, get_args

import torch

import logitfusion.fusion.steering as steering
from decoding.floor import Speed
from decoding.naive import naive_solve
from logitfusion.config.gate import FeatureName, Gate, GateFeature
from logitfusion.fusion import solve_weights
from timing import ratios, synchronise, time_rounds

# All features, and all of them against the other experts' as well.
_PARTS = {name: GateFeature(weight=0.1) for name in get_args(FeatureName)}
GATE = Gate(features=_PARTS, relative=_PARTS)
SIZES = ((256, 32_000), (256, 49_152), (32, 152_064), (32, 262_144))


def bench_solver(rows: int, vocabulary: int, rounds: int, device: torch.device, speed: Speed) -> dict[str, Any]:
    """Against the grid as printed, on so many positions."""
    generator = torch.Generator().manual_seed(0)
    large = (3 * torch.randn(rows, vocabulary, generator=generator)).to(device)
    base = large + torch.randn(rows, vocabulary, generator=generator).to(device)
    experts = base + 0.7 * torch.randn(3, rows, vocabulary, generator=generator).to(device)
    ways: dict[str, Callable[[], Any]] = {
        "naive": lambda: naive_solve(large, base, experts[:1]),
        "solve_weights": lambda: solve_weights(large, base, experts[:1]),
        "solve_weights, newton": lambda: solve_weights(large, base, experts[:1], rule="newton"),
        "solve_weights, gate": lambda: solve_weights(large, base, experts[:1], rule="gate", gate=GATE),
        "solve_weights, 3 experts one_hot": lambda: solve_weights(large, base, experts, selection="one_hot"),
        "solve_weights, 3 experts judged": lambda: solve_weights(large, base, experts),
        "logsumexp of the three": lambda: [part.logsumexp(-1) for part in (large, base, experts[0])],
    }
    with torch.inference_mode():
        seconds, _ = time_rounds(ways, rounds, device)
    read = 3 * rows * vocabulary * 4
    return {
        "rows": rows,
        "vocabulary": vocabulary,
        "milliseconds": {name: [1e3 * value for value in values] for name, values in seconds.items()},
        "faster than naive": ratios({"solve_weights": seconds["naive"]}, over=seconds["solve_weights"]),
        "times one logsumexp": ratios(seconds, "logsumexp of the three"),
        "bytes read": read,
        "floor milliseconds by bytes": 1e3 * read / speed.bytes,
        # two exponentials, 10 x 5 multiply-adds and 14 products an entry, besides the two small softmaxes
        "multiply-adds an entry": 10 * 5 + 14,
    }


def solver_share(run: Callable[[], Any], device: torch.device) -> float:
    """The part of a run's time that is spent in ``solve_weights``."""
    original, spent = steering.solve_weights, 0.0

    def timed(*arguments: Any, **options: Any) -> Any:
        nonlocal spent
        synchronise(device)
        start = time.perf_counter()
        solved = original(*arguments, **options)
        synchronise(device)
        spent += time.perf_counter() - start
        return solved

    steering.solve_weights = timed
    try:
        start = time.perf_counter()
        run()
        return spent / (time.perf_counter() - start)
    finally:
        steering.solve_weights = original
