"""GLD, forward and backward, against the positions L and against k: given the top-k, and with their selection."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import torch

from distillation.problem import Problem
from logitfusion.distill import Predictions
from logitfusion.distill.terms import gld_of_predictions
from timing import spread, time_rounds


def measure(
    lengths: tuple[int, ...], ks: tuple[int, ...], at: tuple[int, int, int], rounds: int, device: torch.device
) -> list[dict[str, Any]]:
    """``at``: the L at which k is varied, the k at which L is, and V."""
    rows = []
    for variable, values in (("L", lengths), ("k", ks)):
        shapes = [(value, at[1]) if variable == "L" else (at[0], value) for value in values]
        for name, make in (("top-k given", given), ("with selection", selected)):
            ways = {str(value): make(*shape, at[2], device) for value, shape in zip(values, shapes, strict=True)}
            seconds, _ = time_rounds(ways, rounds, device)
            rows.append(
                {
                    "of": variable,
                    "what": name,
                    "milliseconds": {size: [1e3 * value for value in found] for size, found in seconds.items()},
                    "exponent": exponents(values, seconds),
                    "exponent of the larger half": exponents(values[len(values) // 2 :], seconds),
                }
            )
        print(f"scaling in {variable}: done", flush=True)
    return rows


def given(length: int, k: int, vocabulary: int, device: torch.device) -> Callable[[], None]:
    cached = Problem.make(length, vocabulary, k, torch.device("cpu")).cached
    tensors = [part.to(device) for part in (cached.log_probs, cached.ids, cached.label_log_probs, cached.counts)]
    theirs = Predictions(*tensors)
    ours = Predictions((2 * tensors[0]).requires_grad_(), tensors[1].roll(1), *tensors[2:])

    def step() -> None:
        ours.log_probs.grad = None
        gld_of_predictions(ours, theirs, k=k, nodes="vocab", signal="logprob").sum().backward()

    return step


def selected(length: int, k: int, vocabulary: int, device: torch.device) -> Callable[[], None]:
    return Problem.make(length, vocabulary, k, device).ours(0, 0, 1)


def exponents(values: tuple[int, ...], seconds: dict[str, list[float]]) -> list[float]:
    """Of each round, the slope of a line through the logarithms."""
    places = [math.log(value) for value in values]
    rounds = zip(*(seconds[str(value)] for value in values), strict=True)
    return [statistics.linear_regression(places, [math.log(one) for one in found]).slope for found in rounds]


def table(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        head = [f"{row['of']} = {size}" for size in row["milliseconds"]]
        cells = [spread(found) for found in row["milliseconds"].values()]
        cells += [spread(row["exponent"]), spread(row["exponent of the larger half"])]
        lines += [
            f"| GLD, {row['what']} | {' | '.join(head)} | exponent | of the larger half |",
            "|" + " --- |" * (len(head) + 3),
            f"| ms | {' | '.join(cells)} |",
            "",
        ]
    return [
        *lines,
        "Forward and backward. An exponent is the slope of a line through the logarithms of a round's times.",
    ]


def targets(rows: list[dict[str, Any]]) -> list[tuple[str, float, bool]]:
    found = []
    for row in rows:
        slope = statistics.median(row["exponent of the larger half"])
        found.append((f"linear in {row['of']}, {row['what']}: exponent at most 1.1", slope, slope <= 1.1))
    return found
