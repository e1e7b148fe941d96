"""The grid rule's kernels: in Triton's interpreter on any machine, and on a GPU where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import exact
import pytest
import torch
from torch import Tensor

from logitfusion.fusion import SolvedWeights, solve_weights
from logitfusion.fusion.selections import POOLS, SELECTIONS

pytest.importorskip("triton")

INF = torch.inf
Models = tuple[Tensor, Tensor, Tensor]
Solve = dict[str, SolvedWeights]


def draw(seed: int, rows: int, experts: int = 2, vocabulary: int = 32, scale: float = 3.0) -> Models:
    """Rounded like bf16, and with a constant on the last expert, which changes nothing."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*leading: int) -> Tensor:
        return (64 * scale * torch.randn(*leading, rows, vocabulary, generator=generator)).round() / 64

    large, base = noise(), noise()
    experts = base + noise(experts) / 4
    experts[-1] += 5
    return large, base, experts


def excluding(models: Models) -> Models:
    """Entries that a model excludes: of each one, of the other experts, a whole block."""
    large, base, experts = (part.clone() for part in models)
    large[0, 3] = base[0, 20] = experts[1, 0, 39] = -INF
    large[1, :32] = -INF
    return large, base, experts


def without_infinities(models: Models) -> Models:
    """Excluded entries as such that no model would ever say."""
    excluded = torch.isneginf(models[0]) | torch.isneginf(models[1]) | torch.isneginf(models[2]).any(0)
    return tuple(part.masked_fill(excluded, -1e4) for part in models)


def special(models: Models) -> Models:
    """Experts that are the base, experts that are alike, a large model that is the base."""
    large, base, experts = (part.clone() for part in models)
    experts[:, 0] = base[0] + 2
    experts[:, 1] = experts[0, 1]
    large[2] = base[2]
    return large, base, experts


def extreme() -> Models:
    """Powers that fp32 probabilities can't carry, a row of which nothing is left, and huge logits."""
    large, base, experts = (part.clone() for part in draw(5, 3))
    large[0, 1:], experts[:, 0, 7] = -120.0, base[0, 7] + 90
    large[1] = -INF
    large[2] *= 1e4
    return large, base, experts


QUARTERS = [quarter / 4 for quarter in range(9)]
CASES: dict[str, tuple[Models, dict[str, Any]]] = {
    **{name: (special(draw(1, 3)), {"selection": name, "step": 0.25}) for name in SELECTIONS},
    "excluding": (excluding(draw(2, 2, vocabulary=40)), {"step": 0.5}),
    "one expert": (draw(3, 2, experts=1, vocabulary=16), {}),
    "one token": (draw(3, 1, vocabulary=1), {}),
    "own bounds": (draw(4, 2), {"selection": "matched", "bounds": [(0.7, 0.9), (0.5, 1.5)], "step": 0.25}),
    "bf16": (tuple(part.bfloat16() for part in draw(6, 1, experts=3)), {"step": 0.5}),
    "extreme": (extreme(), {"step": 0.5}),
}


@pytest.fixture(scope="module", params=["interpreter", "cuda"])
def solved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Solve:
    """What the kernels make of every case."""
    if request.param == "interpreter":
        return interpret(CASES, tmp_path_factory.mktemp("kernels"))
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    found = {
        name: solve_weights(*(part.cuda() for part in models), **options) for name, (models, options) in CASES.items()
    }
    return {name: SolvedWeights(one.weights.cpu(), one.loss.cpu(), one.expert.cpu()) for name, one in found.items()}


def interpret(cases: dict[str, Any], folder: Path) -> Solve:
    torch.save(cases, folder / "cases.pt")
    command = [sys.executable, Path(__file__).with_name("kernel_worker.py"), folder / "cases.pt", folder / "solved.pt"]
    subprocess.run(command, check=True, env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": ":".join(sys.path)})
    solved = torch.load(folder / "solved.pt", weights_only=True)
    return {name: SolvedWeights(**parts) for name, parts in solved.items()}


@pytest.mark.parametrize("case", CASES)
def test_kernels_find_what_torch_finds(solved: Solve, case: str) -> None:
    models, options = CASES[case]
    expected = solve_weights(*models, **options)
    torch.testing.assert_close(solved[case].weights, expected.weights, atol=1e-6, rtol=0)
    torch.testing.assert_close(solved[case].loss.sqrt(), expected.loss.sqrt(), atol=2e-5, rtol=1e-4)
    assert torch.equal(solved[case].expert, expected.expert)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_kernels_find_the_best_of_a_float64_search(solved: Solve, selection: str) -> None:
    exact.assert_best(solved[selection], *CASES[selection][0], selection, QUARTERS)


def test_entries_that_a_model_excludes_might_as_well_not_be_there(solved: Solve) -> None:
    halves = [half / 2 for half in range(5)]
    exact.assert_best(solved["excluding"], *without_infinities(CASES["excluding"][0]), "judged", halves)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_ties_go_to_the_lowest_weight_and_the_first_expert(solved: Solve, selection: str) -> None:
    found = solved[selection]
    assert (found.weights[:, 0] == 0).all(), "experts that learnt nothing"
    assert found.loss[0] == 0
    if selection in POOLS:
        torch.testing.assert_close(found.weights[:, 1], found.weights[:1, 1].expand(2))
        torch.testing.assert_close(found.weights[:, 2].sum(), torch.tensor(1.0))
    else:
        assert (found.weights[1:, 1] == 0).all(), "experts that are alike"
    if selection == "matched":
        assert found.weights[:, 2].tolist() == [1, 0], "each reaches its own target"
