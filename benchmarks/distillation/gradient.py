"""The gradient of GLD, through selection and all, against autograd of the definition with both graphs; in float64."""

from __future__ import annotations

import torch

from distillation.problem import Problem

POSITIONS, VOCABULARY, K = 24, 2_000, 10


def measure() -> dict[str, dict[str, float]]:
    problem, found = Problem.make(POSITIONS, VOCABULARY, K, torch.device("cpu"), torch.float64), {}
    for nodes in ("vocab", "rank"):
        gradients = []
        for step in (problem.ours(0, 0, 1, nodes), problem.printed_gld(nodes)):
            step()
            gradients.append(problem.student.grad)
        ours, expected = gradients
        found[nodes] = {
            "largest difference": float((ours - expected).abs().max()),
            "largest entry": float(expected.abs().max()),
        }
    return found


def table(found: dict[str, dict[str, float]]) -> list[str]:
    lines = ["| gradient in float64, nodes | largest difference | largest entry |", "| --- | --- | --- |"]
    for nodes, values in found.items():
        lines.append(f"| {nodes} | {values['largest difference']:.1e} | {values['largest entry']:.1e} |")
    return lines


def targets(found: dict[str, dict[str, float]]) -> list[tuple[str, float, bool]]:
    worst = max(values["largest difference"] for values in found.values())
    return [("gradient equal to autograd of the definition to 1e-9", worst, worst <= 1e-9)]
