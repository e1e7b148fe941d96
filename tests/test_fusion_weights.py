"""solve_weights against a slow float64 search that is written from the paper's formulas alone."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from logitfusion.config.fusion_options import SearchName
from logitfusion.fusion import SolvedWeights, fuse_logits, solve_weights
from logitfusion.fusion.divergences import Ray
from logitfusion.fusion.logits import logit_shift
from logitfusion.fusion.weights import make_grids

INF = torch.inf
SEARCHES = get_args(SearchName)
ONE_EXPERT = ("one_hot", "matched")  # the selections that let one expert steer at a time
SMALL = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10**6)
SCALES = st.sampled_from([(0.3, 0.1), (1.0, 0.3), (3.0, 1.0), (5.0, 2.0)])  # of the models, of the experts' shifts
# Divergences are resolved to 1e-6 (relative above 1). A loss is the square of a distance to the targets: distances
# that are this close are the same, once for the tie rule and once more for the rounding of either side.
RESOLUTION = 2e-6


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def divergence(log_p: np.ndarray, log_q: np.ndarray) -> float:
    """KL(p || q)."""
    return float((np.exp(log_p) * (log_p - log_q)).sum())


def paper_targets(base: np.ndarray, experts: np.ndarray) -> list[tuple[float, float]]:
    """``KL(Q_t || Q), KL(Q || Q_t)`` of every expert."""
    log_base, log_experts = log_softmax(base), [log_softmax(expert) for expert in experts]
    return [(divergence(log_expert, log_base), divergence(log_base, log_expert)) for log_expert in log_experts]


def paper_loss(
    large: np.ndarray, base: np.ndarray, experts: np.ndarray, expert: int, weight: float, selection: str = "one_hot"
) -> float:
    """The paper's loss of one candidate."""
    log_large, log_fused = log_softmax(large), log_softmax(large + weight * (experts[expert] - base))
    forward, backward = divergence(log_fused, log_large), divergence(log_large, log_fused)
    targets = paper_targets(base, experts)
    chosen = targets if selection == "one_hot" else [targets[expert]]
    return sum((forward - target) ** 2 + (backward - other) ** 2 for target, other in chosen)


def brute_force(
    large: np.ndarray, base: np.ndarray, experts: np.ndarray, selection: str = "one_hot"
) -> tuple[float, int, float]:
    """Weight, expert and loss of the paper's search over one position: weights outside, experts inside, strict <."""
    lowest, best_weight, best_expert = math.inf, 0.0, 0
    for tenth in range(21):
        for expert in range(len(experts)):
            loss = paper_loss(large, base, experts, expert, tenth / 10, selection)
            if loss < lowest:
                lowest, best_weight, best_expert = loss, tenth / 10, expert
    return best_weight, best_expert, lowest


def is_tied_with_the_best(
    large: np.ndarray,
    base: np.ndarray,
    experts: np.ndarray,
    weight: float,
    expert: int,
    lowest: float,
    selection: str = "one_hot",
    resolution: float = RESOLUTION,
) -> bool:
    """Whether a candidate's float64 distance to the targets is the lowest, to within the resolution."""
    rays = [expert] if weight > 0 else range(len(experts))  # at weight 0 it does not matter whose ray it is
    loss = min(paper_loss(large, base, experts, ray, weight, selection) for ray in rays)
    scale = max(1.0, *(value for pair in paper_targets(base, experts) for value in pair))
    return math.sqrt(loss) <= math.sqrt(lowest) + resolution * scale


def as_rows(large: Tensor, base: Tensor, experts: Tensor) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """One float64 triple a position."""
    vocabulary = large.shape[-1]
    flat = [part.double().reshape(-1, vocabulary).numpy() for part in (large, base)]
    others = experts.double().reshape(len(experts), -1, vocabulary).numpy()
    return [(row, other, others[:, number]) for number, (row, other) in enumerate(zip(*flat, strict=True))]


def disagreements(
    large: Tensor, base: Tensor, experts: Tensor, solved: SolvedWeights, selection: str = "one_hot"
) -> tuple[int, int]:
    """How many positions there are, and how many differ from the float64 search; all that differ must be ties."""
    rows = as_rows(large, base, experts)
    weights, chosen = solved.weights.reshape(len(experts), -1), solved.expert.reshape(-1)
    different = 0
    for number, row in enumerate(rows):
        weight, expert = round(float(weights[:, number].max()), 4), int(chosen[number])
        best_weight, best_expert, lowest = brute_force(*row, selection)
        if (weight, expert) != (best_weight, best_expert if best_weight > 0 else -1):
            different += 1
            assert is_tied_with_the_best(*row, weight, expert, lowest, selection), (number, weight, expert)
    return len(rows), different


def draw_models(
    seed: int,
    *,
    experts: int = 1,
    leading: tuple[int, ...] = (2,),
    vocabulary: int = 12,
    scales: tuple[float, float] = (3.0, 1.0),
) -> tuple[Tensor, Tensor, Tensor]:
    """Random large, base and experts."""
    generator = torch.Generator().manual_seed(seed)
    large, base = (scales[0] * torch.randn(*leading, vocabulary, generator=generator) for _ in range(2))
    return large, base, base + scales[1] * torch.randn(experts, *leading, vocabulary, generator=generator)


# The float64 search


@pytest.mark.parametrize("selection", ONE_EXPERT)
@pytest.mark.parametrize("experts", [1, 2, 3, 4])
@pytest.mark.parametrize("scales", [(1.0, 0.3), (3.0, 1.0), (5.0, 2.0)])
def test_grid_is_the_papers_search(experts: int, selection: str, scales: tuple[float, float]) -> None:
    """Another candidate is only ever taken in a near tie, in fewer than 1 of 20 positions (measured: 1 of 2,000)."""
    models = draw_models(experts, experts=experts, leading=(20,), vocabulary=30, scales=scales)
    positions, different = disagreements(*models, solve_weights(*models, selection=selection), selection)
    assert different <= positions // 20


@SMALL
@given(
    seed=SEEDS,
    experts=st.integers(1, 4),
    vocabulary=st.integers(1, 20),
    scales=SCALES,
    selection=st.sampled_from(ONE_EXPERT),
)
def test_grid_is_the_papers_search_for_any_shape(
    seed: int, experts: int, vocabulary: int, scales: tuple[float, float], selection: str
) -> None:
    models = draw_models(seed, experts=experts, leading=(1,), vocabulary=vocabulary, scales=scales)
    disagreements(*models, solve_weights(*models, selection=selection), selection)


LOGITS = st.lists(st.integers(-12, 12).map(lambda value: value / 2), min_size=4, max_size=4)


@SMALL
@given(
    large=LOGITS,
    base=LOGITS,
    experts=st.lists(LOGITS, min_size=1, max_size=3),
    selection=st.sampled_from(ONE_EXPERT),
)
def test_grid_is_the_papers_search_on_chosen_values(
    large: list[float], base: list[float], experts: list[list[float]], selection: str
) -> None:
    """Coarse values make equal experts, equal models and equal entries common."""
    models = torch.tensor(large), torch.tensor(base), torch.tensor(experts)
    disagreements(*models, solve_weights(*models, selection=selection), selection)


@SMALL
@given(seed=SEEDS, experts=st.integers(1, 4), scales=SCALES, selection=st.sampled_from(ONE_EXPERT))
def test_the_loss_is_that_of_the_chosen_weight(
    seed: int, experts: int, scales: tuple[float, float], selection: str
) -> None:
    models = draw_models(seed, experts=experts, leading=(), scales=scales)
    solved = solve_weights(*models, selection=selection)
    row = as_rows(*models)[0]
    weight, expert = float(solved.weights.max()), int(solved.expert)
    rays = [expert] if weight > 0 else range(experts)
    losses = [paper_loss(*row, ray, weight, selection) for ray in rays]
    assert any(math.isclose(float(solved.loss), loss, rel_tol=1e-3, abs_tol=1e-8) for loss in losses)


@pytest.mark.parametrize("rule", SEARCHES)
def test_one_expert_makes_the_selections_the_same(rule: str) -> None:
    models = draw_models(3, leading=(10,))
    paper, matched = (solve_weights(*models, rule=rule, selection=selection) for selection in ONE_EXPERT)
    assert torch.equal(paper.weights, matched.weights)
    assert torch.equal(paper.loss, matched.loss)


@pytest.mark.parametrize("selection", ONE_EXPERT)
@pytest.mark.parametrize("rule", SEARCHES)
@SMALL
@given(seed=SEEDS, experts=st.integers(1, 4))
def test_at_most_one_expert_steers_and_is_named(rule: str, selection: str, seed: int, experts: int) -> None:
    models = draw_models(seed, experts=experts, leading=(4,))
    solved = solve_weights(*models, rule=rule, selection=selection)
    assert ((solved.weights != 0).sum(0) <= 1).all()
    strongest = torch.where(solved.weights.amax(0) > 0, solved.weights.argmax(0), -1)
    assert torch.equal(solved.expert, strongest)
    assert solved.weights.dtype == solved.loss.dtype == torch.float32
    assert solved.expert.dtype == torch.int64


# Ties


@pytest.mark.parametrize("selection", ONE_EXPERT)
@pytest.mark.parametrize("rule", SEARCHES)
@SMALL
@given(seed=SEEDS, experts=st.integers(2, 4), scales=SCALES)
def test_identical_experts_leave_it_to_the_first(
    rule: str, selection: str, seed: int, experts: int, scales: tuple[float, float]
) -> None:
    large, base, others = draw_models(seed, scales=scales)
    solved = solve_weights(large, base, others.repeat(experts, 1, 1), rule=rule, selection=selection)
    single = solve_weights(large, base, others, rule=rule, selection=selection)
    assert torch.equal(solved.weights[0], single.weights[0])
    assert (solved.weights[1:] == 0).all()
    assert (solved.expert <= 0).all()


@pytest.mark.parametrize("selection", ONE_EXPERT)
@pytest.mark.parametrize("rule", SEARCHES)
@SMALL
@given(seed=SEEDS, experts=st.integers(1, 4), scale=st.sampled_from([0.1, 3.0, 30.0, 1e4]))
def test_experts_that_learnt_nothing_get_no_weight(
    rule: str, selection: str, seed: int, experts: int, scale: float
) -> None:
    large, base, _ = draw_models(seed, scales=(scale, 0.0))
    copies = base.repeat(experts, 1, 1)
    solved = solve_weights(large, base, copies, rule=rule, selection=selection)
    assert (solved.weights == 0).all()
    assert (solved.loss == 0).all()
    assert (solved.expert == -1).all()
    assert torch.equal(fuse_logits(large, base, copies, solved.weights), large)


@pytest.mark.parametrize("rule", SEARCHES)
@SMALL
@given(seed=SEEDS, constant=st.integers(-20, 20))
def test_an_expert_that_is_the_base_plus_a_constant_gets_no_weight(rule: str, seed: int, constant: int) -> None:
    large, base, _ = draw_models(seed)
    solved = solve_weights(large, base, (base + constant)[None], rule=rule)
    assert (solved.weights == 0).all()
    assert (solved.expert == -1).all()


@pytest.mark.parametrize("rule", SEARCHES)
@SMALL
@given(seed=SEEDS, scales=SCALES)
def test_a_large_model_that_is_the_base_takes_the_expert_as_it_is(
    rule: str, seed: int, scales: tuple[float, float]
) -> None:
    _, base, experts = draw_models(seed, scales=scales)
    solved = solve_weights(base, base, experts, rule=rule)
    assert (solved.weights == 1).all()
    assert (solved.loss.sqrt() <= RESOLUTION).all()
    assert (solved.expert == 0).all()
    fused = fuse_logits(base, base, experts, solved.weights)
    torch.testing.assert_close(fused.softmax(-1), experts[0].softmax(-1))


def test_matched_takes_each_expert_as_it_is_where_the_large_model_is_the_base() -> None:
    """Every ray reaches its own target at weight 1: the tie goes to the first expert."""
    _, base, experts = draw_models(5, experts=3)
    solved = solve_weights(base, base, experts, selection="matched")
    assert (solved.weights[0] == 1).all()
    assert (solved.expert == 0).all()


def test_a_shift_below_the_resolution_gets_no_weight() -> None:
    """The documented price of fp32: divergences under 1e-6 count as none."""
    large, base, _ = draw_models(6, leading=())
    expert = base + 1e-4 * torch.arange(12) / 12
    solved = solve_weights(large, base, expert[None])
    assert float(solved.weights) == 0


# Newton


@pytest.mark.parametrize("selection", ONE_EXPERT)
@pytest.mark.parametrize("scales", [(3.0, 1.0), (3.0, 0.01)])
@pytest.mark.parametrize("experts", [1, 2, 4])
def test_newton_is_never_worse_than_the_grid(experts: int, scales: tuple[float, float], selection: str) -> None:
    models = draw_models(experts, experts=experts, leading=(500,), scales=scales)
    grid, newton = (solve_weights(*models, rule=rule, selection=selection) for rule in SEARCHES)
    above = newton.loss.sqrt() > grid.loss.sqrt() + RESOLUTION  # both to the resolution of their distances
    assert not above.any(), (newton.loss[above], grid.loss[above])


@pytest.mark.parametrize("selection", ONE_EXPERT)
@SMALL
@given(seed=SEEDS, experts=st.integers(1, 4), scales=SCALES)
def test_newton_is_worse_than_the_grid_by_no_more_than_the_resolution(
    selection: str, seed: int, experts: int, scales: tuple[float, float]
) -> None:
    models = draw_models(seed, experts=experts, leading=(10,), scales=scales)
    grid, newton = (solve_weights(*models, rule=rule, selection=selection) for rule in SEARCHES)
    assert (newton.loss.sqrt() <= grid.loss.sqrt() + RESOLUTION).all()
    assert ((newton.weights >= 0) & (newton.weights <= 2)).all()


def scan(row: tuple[np.ndarray, np.ndarray, np.ndarray], low: float, high: float) -> np.ndarray:
    """Float64 losses of one expert at 401 weights."""
    return np.array([paper_loss(*row, 0, weight) for weight in np.linspace(low, high, 401)])


@SMALL
@given(seed=SEEDS, scales=SCALES)
def test_newton_finds_the_minimum_of_a_unimodal_bracket(seed: int, scales: tuple[float, float]) -> None:
    models = draw_models(seed, leading=(), vocabulary=20, scales=scales)
    newton, row = solve_weights(*models, rule="newton"), as_rows(*models)[0]
    coarse = brute_force(*row)[0]
    losses = scan(row, max(0.0, coarse - 0.1), min(2.0, coarse + 0.1))
    turns = sum((b - a) * (c - b) < 0 for a, b, c in zip(losses, losses[1:], losses[2:], strict=False))
    if turns <= 1:
        reached = paper_loss(*row, 0, float(newton.weights))
        assert math.sqrt(reached) <= math.sqrt(losses.min()) * (1 + 1e-4) + RESOLUTION


def test_newton_refines_the_weight() -> None:
    models = draw_models(7, leading=(50,))
    grid, newton = (solve_weights(*models, rule=rule) for rule in SEARCHES)
    assert (newton.loss < grid.loss).float().mean() > 0.8
    assert (newton.weights - grid.weights).abs().max() <= 0.1 + 1e-6


# The family along a ray


def make_ray(base: Tensor, direction: Tensor) -> Ray:
    shift = direction[None]
    return Ray(base, shift, torch.isneginf(shift))


@SMALL
@given(seed=SEEDS, scales=SCALES, vocabulary=st.integers(1, 40))
def test_both_divergences_grow_with_the_weight(seed: int, scales: tuple[float, float], vocabulary: int) -> None:
    large, base, experts = draw_models(seed, leading=(1,), vocabulary=vocabulary, scales=scales)
    ray = make_ray(large, experts[0] - base)
    path = [ray.divergences(torch.full((1, 1), tenth / 10)) for tenth in range(41)]
    for before, after in pairwise(path):
        for smaller, greater in zip(before, after, strict=True):
            assert float(greater) >= float(smaller) - RESOLUTION * max(1.0, float(greater))
    assert path[0][0] == path[0][1] == 0


@SMALL
@given(seed=SEEDS, scales=SCALES, weight=st.floats(0, 2))
def test_divergences_are_those_of_the_softmaxes(seed: int, scales: tuple[float, float], weight: float) -> None:
    large, base, experts = draw_models(seed, leading=(1,), scales=scales)
    found = make_ray(large, experts[0] - base).divergences(torch.full((1, 1), weight))
    row, other, others = as_rows(large, base, experts)[0]
    log_large, log_fused = log_softmax(row), log_softmax(row + weight * (others[0] - other))
    expected = divergence(log_fused, log_large), divergence(log_large, log_fused)
    assert [float(value) for value in found] == pytest.approx(expected, rel=2e-6, abs=2e-6)


@SMALL
@given(seed=SEEDS, scales=SCALES, weight=st.floats(0.1, 1.9))
def test_slopes_are_those_of_the_divergences(seed: int, scales: tuple[float, float], weight: float) -> None:
    large, base, experts = draw_models(seed, leading=(1,), scales=scales)
    _, _, *slopes = make_ray(large, experts[0] - base).divergences_and_slopes(torch.full((1, 1), weight))
    row, other, others = as_rows(large, base, experts)[0]
    ends = []
    for near in (weight - 1e-4, weight + 1e-4):
        log_large, log_fused = log_softmax(row), log_softmax(row + near * (others[0] - other))
        ends.append((divergence(log_fused, log_large), divergence(log_large, log_fused)))
    expected = [(after - before) / 2e-4 for before, after in zip(*ends, strict=True)]
    assert [float(slope) for slope in slopes] == pytest.approx(expected, rel=1e-3, abs=1e-4)


# Invariances


@SMALL
@given(seed=SEEDS, constants=st.tuples(*[st.integers(-40, 40)] * 4), selection=st.sampled_from(ONE_EXPERT))
def test_constants_change_nothing(seed: int, constants: tuple[int, int, int, int], selection: str) -> None:
    models = tuple((part * 64).round() / 64 for part in draw_models(seed, experts=2))  # such sums are exact in fp32
    large, base, experts = models
    moved = experts + torch.tensor(constants[2:])[:, None, None]
    solved = solve_weights(large + constants[0], base + constants[1], moved, selection=selection)
    disagreements(*models, solved, selection)
    plain = solve_weights(*models, selection=selection)
    torch.testing.assert_close(solved.loss, plain.loss, rtol=1e-3, atol=1e-8)


@SMALL
@given(seed=SEEDS, order=st.permutations(range(12)), selection=st.sampled_from(ONE_EXPERT))
def test_permuting_the_vocabulary_changes_nothing(seed: int, order: list[int], selection: str) -> None:
    models = draw_models(seed, experts=2)
    solved = solve_weights(*(part[..., order] for part in models), selection=selection)
    disagreements(*models, solved, selection)
    torch.testing.assert_close(solved.loss, solve_weights(*models, selection=selection).loss, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("selection", ONE_EXPERT)
def test_permuting_the_experts_permutes(selection: str) -> None:
    large, base, experts = draw_models(8, experts=3, leading=(20,))
    order = [2, 0, 1]
    solved = solve_weights(large, base, experts[order], selection=selection)
    assert torch.equal(solved.weights, solve_weights(large, base, experts, selection=selection).weights[order])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rule", SEARCHES)
def test_half_precision_is_solved_in_fp32(dtype: torch.dtype, rule: str) -> None:
    models = [part.to(dtype) for part in draw_models(9, experts=2, leading=(5,))]
    half, single = solve_weights(*models, rule=rule), solve_weights(*(part.float() for part in models), rule=rule)
    assert torch.equal(half.weights, single.weights)
    assert torch.equal(half.loss, single.loss)
    assert half.weights.dtype == half.loss.dtype == torch.float32


@pytest.mark.parametrize("rule", SEARCHES)
def test_logits_with_gradients_are_solved_without(rule: str) -> None:
    models = draw_models(22, experts=2)
    expected = solve_weights(*models, rule=rule)
    solved = solve_weights(*(part.clone().requires_grad_() for part in models), rule=rule)
    assert not solved.weights.requires_grad
    assert torch.equal(solved.weights, expected.weights)


@pytest.mark.parametrize("rule", SEARCHES)
def test_inputs_are_left_as_they_were(rule: str) -> None:
    models = draw_models(10, experts=2)
    before = [part.clone() for part in models]
    solve_weights(*models, rule=rule)
    assert all(torch.equal(part, old) for part, old in zip(models, before, strict=True))


# Masked entries


@pytest.mark.parametrize("selection", ONE_EXPERT)
@SMALL
@given(seed=SEEDS, experts=st.integers(1, 3), masked=st.sets(st.integers(0, 11), max_size=10))
def test_masked_entries_might_as_well_not_be_there(selection: str, seed: int, experts: int, masked: set[int]) -> None:
    models = draw_models(seed, experts=experts)
    kept = [entry for entry in range(12) if entry not in masked]
    smaller = [part[..., kept].clone() for part in models]
    for part in models:
        part[..., list(masked)] = -INF
    solved = solve_weights(*models, selection=selection)
    disagreements(*smaller, solved, selection)
    torch.testing.assert_close(solved.loss, solve_weights(*smaller, selection=selection).loss, rtol=1e-3, atol=1e-8)
    assert torch.isneginf(fuse_logits(*models, solved.weights)[..., list(masked)]).all()


@pytest.mark.parametrize("rule", SEARCHES)
@pytest.mark.parametrize("who", ["large", "base", "expert", "all"])
def test_a_mask_of_any_model_leaves_the_entry_out(who: str, rule: str) -> None:
    large, base, experts = draw_models(11)
    smaller = [part[..., 1:].clone() for part in (large, base, experts)]
    for name, part in (("large", large), ("base", base), ("expert", experts)):
        if who in (name, "all"):
            part[..., 0] = -INF
    solved, expected = solve_weights(large, base, experts, rule=rule), solve_weights(*smaller, rule=rule)
    torch.testing.assert_close(solved.weights, expected.weights, rtol=0, atol=1e-3)
    torch.testing.assert_close(solved.loss, expected.loss, rtol=1e-3, atol=1e-8)


def test_one_left_entry_gets_no_weight() -> None:
    models = draw_models(12, experts=2)
    for part in models:
        part[..., 1:] = -INF
    solved = solve_weights(*models)
    assert (solved.weights == 0).all()
    assert (solved.loss == 0).all()


# Shapes


@pytest.mark.parametrize("rule", SEARCHES)
@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (2, 1, 2), (0,), (2, 0)])
def test_any_leading_shape(leading: tuple[int, ...], rule: str) -> None:
    models = draw_models(13, experts=2, leading=leading)
    solved = solve_weights(*models, rule=rule)
    assert solved.weights.shape == (2, *leading)
    assert solved.loss.shape == solved.expert.shape == leading
    assert fuse_logits(*models, solved.weights).shape == models[0].shape


@pytest.mark.parametrize("rule", SEARCHES)
@pytest.mark.parametrize("selection", ONE_EXPERT)
def test_rows_do_not_see_each_other(rule: str, selection: str) -> None:
    large, base, experts = draw_models(14, experts=3, leading=(2, 4))
    together = solve_weights(large, base, experts, rule=rule, selection=selection)
    for row in range(2):
        for column in range(4):
            alone = solve_weights(
                large[row, column], base[row, column], experts[:, row, column], rule=rule, selection=selection
            )
            torch.testing.assert_close(alone.weights, together.weights[:, row, column], rtol=0, atol=1e-4)
            assert alone.expert == together.expert[row, column]


def test_many_rows_of_a_large_vocabulary_are_one_by_one() -> None:
    """More numbers than are worked on at a time."""
    models = draw_models(15, experts=2, leading=(5,), vocabulary=700_000)
    options = {"bounds": (0.9, 1.1), "selection": "one_hot"}
    together = solve_weights(*models, **options)
    alone = [solve_weights(*(part[..., row, :] for part in models), **options) for row in range(5)]
    assert torch.equal(together.weights, torch.stack([part.weights for part in alone], dim=-1))
    assert torch.equal(together.expert, torch.stack([part.expert for part in alone]))


@pytest.mark.parametrize("rule", SEARCHES)
def test_strided_inputs_are_solved_like_contiguous_ones(rule: str) -> None:
    large, base, experts = draw_models(16, experts=2, leading=(3, 4))
    views = large.transpose(0, 1), base.transpose(0, 1), experts.transpose(1, 2)
    strided, plain = solve_weights(*views, rule=rule), solve_weights(*(part.contiguous() for part in views), rule=rule)
    assert torch.equal(strided.weights, plain.weights)


@pytest.mark.parametrize("rule", SEARCHES)
def test_a_vocabulary_of_one_token_needs_no_weight(rule: str) -> None:
    solved = solve_weights(*draw_models(17, experts=2, vocabulary=1), rule=rule)
    assert (solved.weights == 0).all()
    assert (solved.loss == 0).all()
    assert (solved.expert == -1).all()


# Extremes


@pytest.mark.parametrize("selection", ONE_EXPERT)
@SMALL
@given(seed=SEEDS, experts=st.integers(1, 3))
def test_huge_logits_are_solved_to_fp32_precision(selection: str, seed: int, experts: int) -> None:
    models = draw_models(seed, experts=experts, scales=(1e4, 1e4))
    disagreements(*models, solve_weights(*models, selection=selection), selection)


@pytest.mark.parametrize("rule", SEARCHES)
@pytest.mark.parametrize("scales", [(1e4, 1e4), (1e4, 1.0), (1.0, 1e4), (1e-6, 1e-6), (0.0, 1.0), (1.0, 0.0)])
def test_extremes_stay_finite(rule: str, scales: tuple[float, float]) -> None:
    models = draw_models(18, experts=3, leading=(20,), scales=scales)
    solved = solve_weights(*models, rule=rule)
    assert solved.weights.isfinite().all()
    assert solved.loss.isfinite().all()
    assert fuse_logits(*models, solved.weights).isfinite().all()


def test_a_large_offset_does_not_overflow() -> None:
    large, base, experts = draw_models(19)
    solved = solve_weights(large + 1000, base - 1000, experts + 500)
    torch.testing.assert_close(solved.loss, solve_weights(large, base, experts).loss, rtol=1e-2, atol=1e-5)


# Candidates and errors


def test_the_papers_grid_has_21_weights() -> None:
    assert make_grids((0.0, 2.0), 0.1, 1)[:, 0].tolist() == pytest.approx([tenth / 10 for tenth in range(21)])
    assert make_grids((0.0, 2.0), 0.1, 1)[:, 0][10] == 1.0


@pytest.mark.parametrize(
    ("bounds", "step"), [((0.0, 2.0), 0.1), ((0.0, 1.5), 0.5), ((0.5, 0.5), 0.1), ((0.0, 2.0), 0.3), ((0.0, 1.0), 0.6)]
)
def test_candidates_stay_within_the_bounds(bounds: tuple[float, float], step: float) -> None:
    grid = make_grids(bounds, step, 1)[:, 0]
    assert float(grid[0]) == bounds[0]
    assert float(grid.max()) <= bounds[1] + 1e-6


@pytest.mark.parametrize("rule", SEARCHES)
@pytest.mark.parametrize("bounds", [(0.0, 0.5), (0.5, 1.0), (1.5, 2.0), (0.7, 0.7), (0.0, 0.0)])
def test_weights_stay_within_the_bounds(bounds: tuple[float, float], rule: str) -> None:
    models = draw_models(20, experts=2, leading=(30,))
    solved = solve_weights(*models, rule=rule, bounds=bounds, selection="one_hot")
    chosen = solved.weights.amax(0)
    assert ((chosen >= bounds[0] - 1e-6) & (chosen <= bounds[1] + 1e-6)).all()


def test_bounds_of_0_switch_the_experts_off() -> None:
    solved = solve_weights(*draw_models(21, experts=2), bounds=(0.0, 0.0))
    assert (solved.weights == 0).all()
    assert (solved.expert == -1).all()


@pytest.mark.parametrize(
    "options",
    [
        {"bounds": (2.0, 0.0)},
        {"bounds": (-1.0, 2.0)},
        {"bounds": (math.nan, 2.0)},
        {"bounds": (0.0, math.nan)},
        {"step": 0.0},
        {"step": -0.1},
        {"step": math.nan},
        {"rule": "guess"},
        {"selection": "all"},
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"bounds|rule|selection|NaN"):
        solve_weights(*draw_models(22), **options)


@pytest.mark.parametrize(
    ("large", "base", "experts"),
    [
        ((3, 11), (3, 10), (2, 3, 11)),
        ((3, 11), (11,), (2, 3, 11)),
        ((3, 11), (3, 11), (3, 11)),
        ((3, 11), (3, 11), (2, 4, 11)),
        ((3, 11), (3, 11), (2, 3, 12)),
        ((3, 11), (3, 11), (0, 3, 11)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(large: tuple, base: tuple, experts: tuple) -> None:
    with pytest.raises(ValueError, match="solve_weights needs"):
        solve_weights(*(torch.zeros(shape) for shape in (large, base, experts)))


def test_an_excluded_entry_shifts_by_nothing_or_everything() -> None:
    shift = logit_shift(torch.tensor([1.0, -INF, -INF, 1.0]), torch.tensor([[2.0, 3.0, -INF, -INF]]))
    assert shift.tolist() == [[1.0, 0.0, 0.0, -INF]]
