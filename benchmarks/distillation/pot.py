"""The sorted distance against POT's conditional gradient for Gromov-Wasserstein, on the CPU in float64.

All get the same graphs ``Z^T Z`` of n nodes, Z the log-probabilities of 64 positions over n tokens; GLD gets Z.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distillation.problem import NOISE, SHARED
from logitfusion.distill.bounds import gromov_bound
from logitfusion.distill.graph import node_features
from logitfusion.distill.terms import sorted_l1
from timing import ratios, spread, time_rounds

POSITIONS = 64
# Ours are too short to be timed alone.
REPEATED = 20
TARGET_NODES, TARGET = 800, 500


def measure(nodes: tuple[int, ...], limit: float, rounds: int) -> list[dict[str, Any]] | str:
    """Of each number of nodes; none that POT would need more than ``limit`` seconds for."""
    try:
        from ot.gromov import gromov_wasserstein2
    except ImportError:
        return "POT is not installed, so there is nothing to compare with: pip install pot (it is in the extra `dev`)."
    rows, before = [], (nodes[0], 0.0)
    for n in nodes:
        if 2 * before[1] * (n / before[0]) ** 3 > limit:
            break
        signals = make_signals(n)
        graphs = [one.T @ one / one.numel() for one in signals]
        arrays, weights = [graph.numpy() for graph in graphs], torch.full((n,), 1 / n).double().numpy()
        ways = {
            "GLD": repeated(gld, *signals),
            "row sums": repeated(squared_bound, *graphs, "flb"),
            "sorted plan": repeated(squared_bound, *graphs, "sorted_plan"),
            "POT": lambda arrays=arrays, weights=weights: gromov_wasserstein2(*arrays, weights, weights, "square_loss"),
        }
        seconds, made = time_rounds(ways, rounds, torch.device("cpu"))
        alone = {name: [value / (1 if name == "POT" else REPEATED) for value in seconds[name]] for name in ways}
        before = n, max(alone["POT"])
        rows.append(
            {
                "nodes": n,
                "rounds": rounds,
                "milliseconds": {name: [1e3 * value for value in values] for name, values in alone.items()},
                "POT's time over": {name: ratios({name: alone["POT"]}, over=alone[name])[name] for name in ways},
                "squared distance": {name: float(made[name]) for name in ("row sums", "POT", "sorted plan")},
            }
        )
        print(f"pot, {n} nodes: done", flush=True)
    return rows


def make_signals(n: int) -> list[Tensor]:
    """``[64, n]`` of two models whose vocabularies are in unlike orders."""
    generator = torch.Generator().manual_seed(n)
    level = SHARED * torch.randn(n, generator=generator, dtype=torch.float64)
    levels = level, level[torch.randperm(n, generator=generator)]
    noise = NOISE * torch.randn(2, POSITIONS, n, generator=generator, dtype=torch.float64)
    return [(one + other).log_softmax(-1) for one, other in zip(levels, noise, strict=True)]


def gld(first: Tensor, second: Tensor) -> Tensor:
    return sorted_l1(node_features(first, None), node_features(second, None))


def squared_bound(first: Tensor, second: Tensor, bound: str) -> Tensor:
    return gromov_bound(first, second, bound=bound).square()


def repeated(function: Callable[..., Tensor], *arguments: Any) -> Callable[[], Tensor]:
    return lambda: [function(*arguments) for _ in range(REPEATED)][-1]


def table(rows: list[dict[str, Any]] | str) -> list[str]:
    if isinstance(rows, str):
        return [rows]
    lines = [
        "| n | rounds | GLD of Z, ms | sorted row sums of graphs, ms | sorted plan, ms | POT, ms | POT / GLD"
        " | POT / row sums | squared distance: lower bound, POT's, upper bound |",
        "|" + " --- |" * 9,
    ]
    for row in rows:
        times, over = row["milliseconds"], row["POT's time over"]
        lines.append(
            f"| {row['nodes']} | {row['rounds']} | {spread(times['GLD'], 3)} | {spread(times['row sums'], 3)} |"
            f" {spread(times['sorted plan'], 3)} | {spread(times['POT'], 0)} | {spread(over['GLD'], 0)} |"
            f" {spread(over['row sums'], 0)} |"
            f" {', '.join(f'{value:.3g}' for value in row['squared distance'].values())} |"
        )
    return lines


def targets(rows: list[dict[str, Any]] | str) -> list[tuple[str, float, bool]]:
    found = []
    for row in rows if isinstance(rows, list) else []:
        if row["nodes"] == TARGET_NODES:
            for name, words in (("GLD", "GLD of Z"), ("row sums", "sorted row sums of graphs")):
                times = statistics.median(row["POT's time over"][name])
                found.append((f"{TARGET} times as fast as POT, n = {TARGET_NODES}, {words}", times, times >= TARGET))
    return found
