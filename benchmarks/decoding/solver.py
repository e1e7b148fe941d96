"""The solver alone, and its share of a fused step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor

import logitfusion.fusion.steering as steering
import logitfusion.fusion.weights as weights
from decoding.floor import Speed
from decoding.naive import naive_solve
from logitfusion.config.gate import FeatureName, Gate, GateFeature
from logitfusion.fusion import SolvedWeights, solve_weights
from logitfusion.fusion.selections import SELECTIONS
from timing import ratios, synchronise, time_rounds

# All features, and all of them against the other experts' as well.
_PARTS = {name: GateFeature(weight=0.1) for name in get_args(FeatureName)}
GATE = Gate(features=_PARTS, relative=_PARTS)
SIZES = ((256, 32_000), (256, 49_152), (32, 152_064), (32, 262_144))
# A step's, where a GPU waits for its host.
BATCHES = tuple((rows, vocabulary) for vocabulary in (32_000, 152_064) for rows in (1, 8, 32))

Models = tuple[Tensor, Tensor, Tensor]


def bench_solver(rows: int, vocabulary: int, rounds: int, device: torch.device, speed: Speed) -> dict[str, Any]:
    """Against the grid as printed, on so many positions; on a GPU also by torch's own operations, without kernels."""
    models = _draw(rows, vocabulary, device)
    large, base, experts = models
    ways: dict[str, Callable[[], Any]] = {
        "naive": lambda: naive_solve(large, base, experts[:1]),
        "solve_weights": lambda: solve_weights(large, base, experts[:1]),
        "solve_weights, newton": lambda: solve_weights(large, base, experts[:1], rule="newton"),
        "solve_weights, gate": lambda: solve_weights(large, base, experts[:1], rule="gate", gate=GATE),
        "solve_weights, 3 experts one_hot": lambda: solve_weights(large, base, experts, selection="one_hot"),
        "solve_weights, 3 experts judged": lambda: solve_weights(large, base, experts),
        "logsumexp of the three": lambda: [part.logsumexp(-1) for part in (large, base, experts[0])],
    }
    if device.type == "cuda":
        ways["without kernels"] = lambda: _without_kernels(large, base, experts[:1])
        ways["without kernels, 3 experts judged"] = lambda: _without_kernels(large, base, experts)
    with torch.inference_mode():
        seconds, _ = time_rounds(ways, rounds, device)
        agreement = _compare(models) if device.type == "cuda" else {}
    read = 3 * rows * vocabulary * 4
    return {
        "rows": rows,
        "vocabulary": vocabulary,
        "milliseconds": {name: [1e3 * value for value in values] for name, values in seconds.items()},
        "faster than naive": ratios({"solve_weights": seconds["naive"]}, over=seconds["solve_weights"]),
        "newton to grid": ratios({"newton": seconds["solve_weights, newton"]}, over=seconds["solve_weights"]),
        "times one logsumexp": ratios(seconds, "logsumexp of the three"),
        "bytes read": read,
        "floor milliseconds by bytes": 1e3 * read / speed.bytes,
        # two exponentials, 10 x 5 multiply-adds and 14 products an entry, besides the two small softmaxes
        "multiply-adds an entry": 10 * 5 + 14,
        "kernels": agreement,
    }


def _draw(rows: int, vocabulary: int, device: torch.device) -> Models:
    generator = torch.Generator().manual_seed(0)
    large = (3 * torch.randn(rows, vocabulary, generator=generator)).to(device)
    base = large + torch.randn(rows, vocabulary, generator=generator).to(device)
    return large, base, base + 0.7 * torch.randn(3, rows, vocabulary, generator=generator).to(device)


def _without_kernels(*models: Tensor, **options: Any) -> SolvedWeights:
    load, weights._load_kernels = weights._load_kernels, lambda *_: None
    try:
        return solve_weights(*models, **options)
    finally:
        weights._load_kernels = load


def _compare(models: Models) -> dict[str, Any]:
    """How often kernels and torch choose the same weights (rows of all selections), how near losses are; launches."""
    same = rows = 0
    furthest = 0.0
    for selection in SELECTIONS:
        found, expected = solve_weights(*models, selection=selection), _without_kernels(*models, selection=selection)
        same += int(((found.weights - expected.weights).abs().amax(0) < 1e-5).sum())
        rows += len(found.loss)
        furthest = max(furthest, float((found.loss.sqrt() - expected.loss.sqrt()).abs().max()))
    launches = {name: _count_launches(lambda solve=solve: solve(*models)) for name, solve in _LAUNCHED.items()}
    return {"same rows": f"{same}/{rows}", "losses' roots apart": furthest, "launches": launches}


_LAUNCHED = {"solve_weights": solve_weights, "without kernels": _without_kernels}


def _count_launches(run: Callable[[], Any]) -> int:
    """Of kernels on a GPU."""
    with torch.profiler.profile() as profile:
        run()
    return sum(event.count for event in profile.key_averages() if "LaunchKernel" in event.key)


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
