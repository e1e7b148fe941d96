"""How often each selection follows the expert that is right; how the problems are made: benchmarks/selection.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from selection import make_problem


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
