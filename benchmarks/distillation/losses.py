"""Seconds of each loss, as multiples of one ``logsumexp`` over the student's logits."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distillation.problem import Problem
from logitfusion.distill import predict
from logitfusion.distill.terms import gld_of_predictions
from timing import ratios, spread, time_rounds

READ, READ_IN_CACHE, READ_AND_BACK = "logsumexp, forward", "logsumexp, forward, 4 MB at a time", "logsumexp"
SELECTED = "top-k and GLD, forward"


def measure(sizes: tuple[tuple[int, int, int], ...], rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Of positions, V and k each; ULD of whole vocabularies, which knows no k and takes long, once for all k."""
    rows, with_full_uld = [], set()
    for positions, vocabulary, k in sizes:
        problem = Problem.make(positions, vocabulary, k, device)
        ways = forward_ways(problem) | training_ways(problem)
        if (positions, vocabulary) not in with_full_uld:
            ways["ULD of whole vocabularies"] = problem.full_uld()
            with_full_uld.add((positions, vocabulary))
        seconds, _ = time_rounds(ways, rounds, device)
        rows.append(
            {
                "positions": positions,
                "vocabulary": vocabulary,
                "k": k,
                "teacher's nodes": len(problem.cached.ids.unique()),
                "milliseconds": {name: [1e3 * value for value in values] for name, values in seconds.items()},
                "times one logsumexp": ratios(seconds, READ),
                "times logsumexp in cache": ratios(seconds, READ_IN_CACHE),
                "times logsumexp forward and backward": ratios(seconds, READ_AND_BACK),
            }
        )
        print(f"losses, {positions} positions, V = {vocabulary}, k = {k}: done", flush=True)
    return rows


def forward_ways(problem: Problem) -> dict[str, Callable[[], Any]]:
    logits, k = problem.student.detach(), problem.k
    step = max(1, 1_000_000 // logits.shape[-1])

    def selected() -> Tensor:
        ours = predict(logits, problem.labels, k)
        return gld_of_predictions(ours, problem.cached, k=k, nodes="vocab", signal="logprob")

    return {
        READ: lambda: logits.logsumexp(-1),
        READ_IN_CACHE: lambda: [part.logsumexp(-1) for part in logits[0].split(step)],
        SELECTED: selected,
    }


def training_ways(problem: Problem) -> dict[str, Callable[[], None]]:
    return {
        READ_AND_BACK: problem.training(lambda: problem.student.logsumexp(-1).sum()),
        "SFT": problem.ours(1, 0, 0),
        "GLD": problem.ours(0, 0, 1),
        "SFT + GLD": problem.ours(0.7, 0, 0.3),
        "SFT + GLD, nodes are ranks": problem.ours(0.7, 0, 0.3, nodes="rank"),
        "SFT + ULD": problem.ours(0.7, 0.3, 0),
        "SFT + ULD + GLD": problem.ours(0.4, 0.3, 0.3),
        **problem.rivals(),
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    names = list(max((row["milliseconds"] for row in rows), key=len))
    sizes = [f"V = {row['vocabulary']:,}, L = {row['positions']}, k = {row['k']}" for row in rows]
    lines = [f"| times one logsumexp | {' | '.join(sizes)} |", "|" + " --- |" * (len(rows) + 1)]
    cells = [f"{spread(row['milliseconds'][READ], 1)} ms" for row in rows]
    lines.append(f"| {READ} | {' | '.join(cells)} |")
    for name in names[1:]:
        cells = [spread(row["times one logsumexp"][name]) if name in row["milliseconds"] else "" for row in rows]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, "", "Forward and backward unless a row names one; the last four are what a user would do."]


def targets(rows: list[dict[str, Any]]) -> list[tuple[str, float, bool]]:
    """The worst median over all sizes."""
    found = []
    for name, reference, words in (
        (SELECTED, "times one logsumexp", "forward"),
        (SELECTED, "times logsumexp in cache", "forward, 4 MB of logits at a time"),
        ("GLD", "times logsumexp forward and backward", "forward and backward"),
    ):
        worst = max(statistics.median(row[reference][name]) for row in rows)
        found.append((f"selection and GLD at most 1.3 times logsumexp, {words}", worst, worst <= 1.3))
    return found
