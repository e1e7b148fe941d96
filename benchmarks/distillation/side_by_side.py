"""The losses here beside other libraries' own code, on the same text: do the numbers agree, what time, what memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillation import peers
from distillation.memory import peak
from distillation.pair import Pair
from distillation.peers import FORWARD, GROUPED, HYBRID, JSD, REVERSE, TOP_FORWARD, TOP_JSD, ULD, Losses
from logitfusion.distill import CachedTeacher, Teacher, distill_loss
from timing import ratios, spread, time_rounds

# The ULD of whole vocabularies is as fast as this many sorts of torch's.
TARGET = 2.0


def here() -> Losses:
    """The same losses by this package."""

    def online(pair: Pair, groups: bool, **options: Any) -> Tensor:
        labels = pair.teacher_labels if groups else pair.labels
        own = Teacher(pair.teacher, labels, groups=pair.groups if groups else None, shared=pair.shared)
        return _only(pair, own, **options)

    def cached(pair: Pair, form: str) -> Tensor:
        return _only(pair, CachedTeacher(pair.cached, tail=pair.tail), kl_weight=1.0, divergence=form)

    return {
        ULD: lambda pair: online(pair, False, uld_weight=1.0),
        GROUPED: lambda pair: online(pair, True, uld_weight=1.0),
        HYBRID: lambda pair: online(pair, True, hybrid_weight=1.0, divergence="jsd"),
        FORWARD: lambda pair: online(pair, False, kl_weight=1.0, divergence="forward"),
        REVERSE: lambda pair: online(pair, False, kl_weight=1.0, divergence="reverse"),
        JSD: lambda pair: online(pair, False, kl_weight=1.0, divergence="jsd"),
        TOP_FORWARD: lambda pair: cached(pair, "forward"),
        TOP_JSD: lambda pair: cached(pair, "jsd"),
    }


def _only(pair: Pair, teacher: Teacher | CachedTeacher, **options: Any) -> Tensor:
    weights = {"sft_weight": 0.0, "uld_weight": 0.0, "gld_weight": 0.0}
    return distill_loss(pair.student, pair.labels, [teacher], **weights | options).total


def measure(
    sizes: tuple[tuple[int, int, int], ...], rounds: int, device: torch.device, checkouts: dict[str, Path]
) -> dict[str, Any]:
    """Of positions, V and k each, every loss that a library has as well."""
    found = {name: peers.find(name, checkouts.get(name)) for name in peers.PEERS}
    rows = []
    for positions, vocabulary, k in sizes:
        pair = Pair.make(positions, vocabulary, k, device)
        for loss, ours in here().items():
            others = {version: losses[loss] for version, losses in filter(None, found.values()) if loss in losses}
            if others:
                row = {"loss": loss, "positions": positions, "vocabulary": vocabulary, "k": k}
                rows.append(row | compare(pair, ours, others, rounds, device))
                print(f"side by side, V = {vocabulary}, {loss}: done", flush=True)
    return {"missing": [name for name, one in found.items() if one is None], "rows": rows}


def compare(
    pair: Pair, ours: Callable[[Pair], Tensor], others: Losses, rounds: int, device: torch.device
) -> dict[str, Any]:
    """One loss here and there."""

    def training(loss: Callable[[Pair], Tensor]) -> Callable[[], Tensor]:
        def step() -> Tensor:
            pair.student.grad = None
            value = loss(pair)
            value.backward()
            return value.detach()

        return step

    ways = {"here": training(ours)} | {name: training(loss) for name, loss in others.items()}
    value, gradient = float(ways["here"]()), pair.student.grad
    agreement = {}
    for name in others:
        other = float(ways[name]())
        distance = float((pair.student.grad - gradient).abs().sum() / gradient.abs().sum())
        agreement[name] = {"loss": other, "difference of gradients": distance}
    # On a CPU the time of all threads, which other programs that run at the same time do not change.
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    seconds, _ = time_rounds(ways, rounds, device, clock)
    size = pair.student.nbytes
    return {
        "loss here": value,
        "others": agreement,
        "milliseconds": {name: [1e3 * one for one in found] for name, found in seconds.items()},
        "times here": {name: found for name, found in ratios(seconds, "here").items() if name != "here"},
        "bytes beside": {name: peak(way, pair) - size for name, way in ways.items()},
        "bytes of the logits": size,
    }


def table(found: dict[str, Any]) -> list[str]:
    lines = [
        "| V, L | loss | beside | loss here, there | gradients differ by | here, ms | there, ms | times as long"
        " | memory here | there |",
        "|" + " --- |" * 10,
    ]
    for row in found["rows"]:
        for name, other in row["others"].items():
            beside = {one: f"{row['bytes beside'][one] / row['bytes of the logits']:.1f}" for one in ("here", name)}
            lines.append(
                f"| {row['vocabulary']:,}, {row['positions']} | {row['loss']} | {name} |"
                f" {row['loss here']:.6g}, {other['loss']:.6g} | {other['difference of gradients']:.1g} |"
                f" {spread(row['milliseconds']['here'], 0)} | {spread(row['milliseconds'][name], 0)} |"
                f" {spread(row['times here'][name])} | {beside['here']} | {beside[name]} |"
            )
    missing = [f"{name} is not installed, and no checkout of it was named." for name in found["missing"]]
    return [
        *lines,
        "",
        f"Forward and backward, on a CPU the time of all threads; teachers' k = {found['rows'][0]['k']}. Losses are"
        " divided by the student's tokens on both sides. Gradients differ by the sum of absolute differences over ours."
        " Memory: at the peak beyond logits and gradient, in multiples of the logits.",
        *missing,
    ]


def targets(found: dict[str, Any]) -> list[tuple[str, float, bool]]:
    times = [
        statistics.median(values)
        for row in found["rows"]
        if row["loss"] == ULD
        for name, values in row["times here"].items()
        if name.startswith("torch ")
    ]
    words = f"ULD of whole vocabularies {TARGET:g} times as fast as torch's sort and autograd"
    return [(words, min(times), min(times) >= TARGET)]
