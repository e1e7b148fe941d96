"""The peak of forward and backward, beside the student's logits and their gradient."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from distillation.problem import Problem


def measure(sizes: tuple[tuple[int, int, int, torch.dtype], ...], device: torch.device) -> list[dict[str, Any]]:
    """Of positions, V, k and type of the logits each. A teacher's whole logits count where a loss needs them."""
    rows = []
    for positions, vocabulary, k, dtype in sizes:
        problem = Problem.make(positions, vocabulary, k, device, dtype)
        size = problem.student.nbytes
        ways = {
            "SFT": problem.ours(1, 0, 0),
            "SFT + ULD + GLD": problem.ours(0.4, 0.3, 0.3),
            **problem.rivals(),
            "ULD of whole vocabularies": problem.full_uld(),
        }
        beside = {name: peak(way, problem) - size for name, way in ways.items()}
        beside["ULD of whole vocabularies"] += problem.teacher.nbytes
        rows.append(
            {
                "positions": positions,
                "vocabulary": vocabulary,
                "k": k,
                "dtype": str(dtype).removeprefix("torch."),
                "bytes of the logits": size,
                "bytes beside": beside,
            }
        )
        print(f"memory, {positions} positions, V = {vocabulary}, k = {k}: done", flush=True)
    return rows


def peak(way: Callable[[], None], problem: Problem) -> int:
    """The most bytes of tensors at once, beyond what is there before."""
    problem.student.grad = None
    device = problem.student.device
    if device.type == "cuda":
        way()  # its libraries keep some memory from their first call on
        problem.student.grad = None
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        way()
        return torch.cuda.max_memory_allocated(device) - before
    with silence(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        way()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    allocated = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        most = max(most, allocated)
    return most


@contextmanager
def silence() -> Iterator[None]:
    """Without what the profiler's library writes to the standard error, past Python."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def table(rows: list[dict[str, Any]]) -> list[str]:
    names = list(rows[0]["bytes beside"])
    lines = [f"| memory beside logits and gradient | logits, MB | {' | '.join(names)} |"]
    lines.append("|" + " --- |" * (len(names) + 2))
    for row in rows:
        size = row["bytes of the logits"]
        cells = [f"{value / size:.2f} ({value / 1e6:.0f} MB)" for value in row["bytes beside"].values()]
        lines.append(
            f"| V = {row['vocabulary']:,}, L = {row['positions']}, k = {row['k']}, {row['dtype']} | {size / 1e6:.0f} |"
            f" {' | '.join(cells)} |"
        )
    return [
        *lines,
        "",
        "Multiples of the logits' bytes, at the peak of one forward and backward; tensors only, once each. ULD of whole"
        " vocabularies includes the teacher's logits, which it needs.",
    ]
