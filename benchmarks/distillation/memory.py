"""The peak of forward and backward, beside the student's logits and their gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from distillation.problem import Problem
from peak import most_bytes


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
    device = problem.student.device
    if device.type == "cuda":
        way()  # its libraries keep some memory from their first call on
    problem.student.grad = None
    return most_bytes(way, device)


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
