"""Which expert steers, and how often the answer is right, where the right expert is known: `make bench-selection`.

Made-up positions, 200 tokens: all models have the same random taste (normal, standard deviation 2) and noise of their
own (0.5). One token is the truth. The large model knows a little of it: its logit is raised by ``knowledge``. One
expert was trained on such questions, and raises the truth's logit by 8. Every other expert was trained on something
else, and raises that of a random token by 8. All experts have noise of their own (0.3) beside. Which expert is right
is random. So the experts' targets are alike, and only the large model's opinion can tell the right one.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from logitfusion.files import write_json, write_text
from logitfusion.fusion import fuse_logits, solve_weights
from logitfusion.fusion.selections import SELECTIONS

POSITIONS, VOCABULARY = 200, 200


@dataclass(frozen=True)
class Problem:
    """Models ``[n, V]`` (experts ``[T, n, V]``), and truth and right expert ``[n]``."""

    large: Tensor
    base: Tensor
    experts: Tensor
    truth: Tensor
    right: Tensor

    def steers(self, selection: str, rule: str = "grid") -> float:
        """The share of positions where the right expert steers most."""
        solved = solve_weights(self.large, self.base, self.experts, selection=selection, rule=rule)
        return float((solved.expert == self.right).double().mean())

    def answers(self, selection: str, rule: str = "grid") -> Tensor:
        solved = solve_weights(self.large, self.base, self.experts, selection=selection, rule=rule)
        return fuse_logits(self.large, self.base, self.experts, solved.weights).argmax(-1)

    def changes(self, selection: str) -> float:
        """The share of positions where the answer of continuous weights is another than the grid's."""
        return float((self.answers(selection) != self.answers(selection, "newton")).double().mean())

    def solves(self, selection: str) -> float:
        """The share of positions where the fused answer is the truth."""
        return float((self.answers(selection) == self.truth).double().mean())


def make_problem(experts: int, knowledge: float, seed: int = 0, positions: int = POSITIONS) -> Problem:
    generator = torch.Generator().manual_seed(seed)

    def noise(scale: float, *leading: int) -> Tensor:
        return scale * torch.randn(*leading, positions, VOCABULARY, generator=generator)

    raised = torch.randint(VOCABULARY, (experts, positions), generator=generator)
    right = torch.randint(experts, (positions,), generator=generator)
    truth = raised[right, torch.arange(positions)]
    taste = noise(2.0)
    base = taste + noise(0.5)
    shift = torch.zeros(experts, positions, VOCABULARY).scatter(2, raised[..., None], 8.0) + noise(0.3, experts)
    large = (taste + noise(0.5)).scatter_add(1, truth[:, None], torch.full((positions, 1), knowledge))
    return Problem(large, base, base + shift, truth, right)


def measure(knowledge: float, experts: int, positions: int) -> dict[str, object]:
    problem = make_problem(experts, knowledge, positions=positions)
    alone = float((problem.large.argmax(-1) == problem.truth).double().mean())
    found = {
        name: {"steers": problem.steers(name), "solves": problem.solves(name), "changes": problem.changes(name)}
        for name in SELECTIONS
    }
    return {"knowledge": knowledge, "experts": experts, "positions": positions, "large alone": alone, **found}


def as_markdown(rows: list[dict[str, object]]) -> str:
    lines = [f"| knowledge, nats | experts | large alone | {' | '.join(SELECTIONS)} |", "|" + " --- |" * 7]
    for row in rows:
        cells = [" / ".join(f"{value:.2f}" for value in row[name].values()) for name in SELECTIONS]
        lines.append(f"| {row['knowledge']:g} | {row['experts']} | {row['large alone']:.2f} | {' | '.join(cells)} |")
    words = "Shares: right expert steers most / answer is the truth / grid and newton answer differently"
    return "\n".join([*lines, "", f"{words}; {rows[0]['positions']} positions a row, seed 0."]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--positions", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=Path("results/bench/selection.json"))
    arguments = parser.parse_args()
    rows = [measure(knowledge, experts, arguments.positions) for knowledge in (1.0, 3.0, 6.0) for experts in (2, 4, 8)]
    write_json(arguments.output, rows)
    write_text(arguments.output.with_suffix(".md"), as_markdown(rows))
    print(as_markdown(rows))


if __name__ == "__main__":
    main()
