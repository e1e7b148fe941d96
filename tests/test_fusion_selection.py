"""How often each selection follows the expert that is right, where it is known which one is.

Made-up positions, 200 tokens: all models have the same random taste (normal, standard deviation 2) and noise of their
own (0.5). One token is the truth. The large model knows a little of it: its logit is raised by ``knowledge``. One
expert was trained on such questions, and raises the truth's logit by 8. Every other expert was trained on something
else, and raises that of a random token by 8. All experts have noise of their own (0.3) beside. Which expert is right
is random. So the experts' targets are alike, and only the large model's opinion can tell the right one.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from logitfusion.fusion import fuse_logits, solve_weights

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


@pytest.mark.parametrize("experts", [2, 4, 8])
def test_judged_finds_the_right_expert_more_often_than_the_papers_rule(experts: int) -> None:
    problem = make_problem(experts, knowledge=3.0)
    assert problem.steers("judged") > problem.steers("one_hot") + 0.15
    assert problem.steers("judged") > 1 / experts + 0.25


def test_what_the_large_model_does_not_know_judged_can_not_find() -> None:
    """Without knowledge it is chance, whichever rule: the measure itself has no favourite."""
    problem = make_problem(4, knowledge=0.0)
    for selection in ("one_hot", "judged"):
        assert 0.1 < problem.steers(selection) < 0.4


def test_the_more_the_large_model_knows_the_better_judged_finds_the_right_expert() -> None:
    little, much = (make_problem(4, knowledge).steers("judged") for knowledge in (1.0, 6.0))
    assert much > little + 0.2
