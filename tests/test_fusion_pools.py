"""Experts that steer together, and experts with bounds of their own."""

from __future__ import annotations

import math
from typing import get_args

import exact
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from logitfusion.config.fusion_options import SearchName
from logitfusion.fusion import fuse_logits, solve_weights
from logitfusion.fusion.selections import JUDGE_SHARPNESS, POOLS, SELECTIONS
from logitfusion.fusion.weights import make_grids

INF = torch.inf
SEARCHES = get_args(SearchName)
SMALL = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10**6)
SCALES = st.sampled_from([(0.3, 0.1), (1.0, 0.3), (3.0, 1.0), (5.0, 2.0)])  # of the models, of the experts' shifts
RESOLUTION = 2e-6  # of a loss's root, relative above 1
ONE_AT_A_TIME = ("one_hot", "matched")


def draw(
    seed: int,
    experts: int = 3,
    leading: tuple[int, ...] = (20,),
    vocabulary: int = 30,
    scales: tuple[float, float] = (3.0, 1.0),
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    large, base = (scales[0] * torch.randn(*leading, vocabulary, generator=generator) for _ in range(2))
    return large, base, base + scales[1] * torch.randn(experts, *leading, vocabulary, generator=generator)


def pool(base: Tensor, experts: Tensor, shares: Tensor) -> Tensor:
    """The one expert that a pool is: ``[1, n, V]``."""
    return (base + (shares.double()[..., None] * exact.shift_of(base, experts)).sum(0))[None]


def judged_shares(large: Tensor, experts: Tensor) -> Tensor:
    return (0.2 * exact.opinions(large, experts)).softmax(0)


def assert_as_good(weights: Tensor, expected: Tensor, loss: Tensor, other: Tensor) -> None:
    """Equal losses, and equal weights but for a few candidates that are as good as each other."""
    torch.testing.assert_close(loss.sqrt(), other.sqrt(), rtol=2e-5, atol=1e-5)
    assert ((weights - expected).abs() > 1e-3).sum() <= 1


# Pools


@pytest.mark.parametrize("rule", SEARCHES)
@SMALL
@given(seed=SEEDS, experts=st.integers(1, 4), scales=SCALES)
def test_pooled_is_one_expert_of_the_mean_shift(
    rule: str, seed: int, experts: int, scales: tuple[float, float]
) -> None:
    large, base, others = draw(seed, experts, scales=scales)
    solved = solve_weights(large, base, others, rule=rule, selection="pooled")
    mean = pool(base, others, torch.full((experts, 20), 1 / experts)).float()
    single = solve_weights(large, base, mean, rule=rule, selection="one_hot")
    assert_as_good(solved.weights.sum(0), single.weights[0], solved.loss, single.loss)
    torch.testing.assert_close(solved.weights, solved.weights[:1].expand(experts, -1))


@pytest.mark.parametrize("rule", SEARCHES)
@SMALL
@given(seed=SEEDS, experts=st.integers(2, 4), scales=SCALES)
def test_judged_is_one_expert_of_the_shifts_by_opinion(
    rule: str, seed: int, experts: int, scales: tuple[float, float]
) -> None:
    large, base, others = draw(seed, experts, scales=scales)
    solved = solve_weights(large, base, others, rule=rule, selection="judged")
    shares = judged_shares(large, others)
    single = solve_weights(large, base, pool(base, others, shares).float(), rule=rule, selection="one_hot")
    assert_as_good(solved.weights.sum(0), single.weights[0], solved.loss, single.loss)
    torch.testing.assert_close(solved.weights.double(), shares * solved.weights.double().sum(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("selection", POOLS)
@pytest.mark.parametrize("rule", SEARCHES)
def test_a_pool_of_one_is_the_papers_rule(rule: str, selection: str) -> None:
    models = draw(1, experts=1)
    pooled, paper = (solve_weights(*models, rule=rule, selection=name) for name in (selection, "one_hot"))
    assert torch.equal(pooled.weights, paper.weights)
    assert torch.equal(pooled.loss, paper.loss)
    assert torch.equal(pooled.expert, paper.expert)


@pytest.mark.parametrize("selection", POOLS)
@SMALL
@given(seed=SEEDS, experts=st.integers(2, 5), scales=SCALES)
def test_identical_experts_share_what_one_would_do(
    selection: str, seed: int, experts: int, scales: tuple[float, float]
) -> None:
    large, base, single = draw(seed, 1, scales=scales)
    together = solve_weights(large, base, single.repeat(experts, 1, 1), selection=selection)
    alone = solve_weights(large, base, single, selection=selection)
    assert_as_good(together.weights.sum(0), alone.weights[0], together.loss, alone.loss)
    torch.testing.assert_close(together.weights, together.weights[:1].expand(experts, -1))


@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_order_of_the_experts_does_not_matter(selection: str) -> None:
    large, base, experts = draw(2)
    order = [2, 0, 1]
    solved, moved = (solve_weights(large, base, part, selection=selection) for part in (experts, experts[order]))
    torch.testing.assert_close(moved.weights, solved.weights[order], rtol=0, atol=1e-5)
    torch.testing.assert_close(moved.loss.sqrt(), solved.loss.sqrt(), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("selection", POOLS)
@pytest.mark.parametrize("rule", SEARCHES)
@pytest.mark.parametrize("bounds", [(0.0, 0.5), (0.5, 1.0), (1.5, 2.0), (0.7, 0.7), (0.0, 0.0)])
def test_the_weights_together_stay_within_the_bounds(bounds: tuple[float, float], rule: str, selection: str) -> None:
    solved = solve_weights(*draw(3), rule=rule, selection=selection, bounds=bounds)
    total = solved.weights.sum(0)
    assert (solved.weights >= 0).all()
    assert ((total >= bounds[0] - 1e-6) & (total <= bounds[1] + 1e-6)).all()


def test_experts_that_cancel_out_get_no_weight() -> None:
    """The pool says what the base says, although no expert does."""
    large, base, _ = draw(4)
    shift = (torch.randn(base.shape, generator=torch.Generator().manual_seed(4)) * 64).round() / 64
    base = (base * 64).round() / 64
    solved = solve_weights(large, base, torch.stack([base + shift, base - shift]), selection="pooled")
    assert (solved.weights == 0).all()
    assert (solved.loss == 0).all()
    assert (solved.expert == -1).all()


def test_the_more_plausible_expert_steers_more() -> None:
    """One expert says what the large model would say, the other something that the large model finds unlikely."""
    large, base, _ = draw(5)
    likely, unlikely = large.argmax(-1, keepdim=True), large.argmin(-1, keepdim=True)
    height = torch.full((20, 1), 8.0)
    experts = torch.stack([base.scatter_add(1, likely, height), base.scatter_add(1, unlikely, height)])
    plausible, implausible = solve_weights(large, base, experts, selection="judged").weights
    moved = plausible > 0
    assert moved.float().mean() > 0.9
    assert (plausible[moved] > implausible[moved]).all()
    assert (implausible[moved] > 0).all()
    opinions = exact.opinions(large, experts)
    expected = (JUDGE_SHARPNESS * (opinions[0] - opinions[1])).exp()
    torch.testing.assert_close((plausible / implausible).double()[moved], expected[moved], rtol=1e-4, atol=0)


@SMALL
@given(seed=SEEDS, masked=st.sets(st.integers(0, 29), min_size=1, max_size=28), who=st.sampled_from(range(4)))
def test_opinions_leave_out_what_any_model_excludes(seed: int, masked: set[int], who: int) -> None:
    large, base, experts = draw(seed, experts=2)
    kept = [entry for entry in range(30) if entry not in masked]
    smaller = [part[..., kept].clone() for part in (large, base, experts)]
    (large, base, experts[0], experts)[who][..., list(masked)] = -INF
    solved, expected = (solve_weights(*models, selection="judged") for models in ((large, base, experts), smaller))
    assert solved.weights.isfinite().all()
    assert_as_good(solved.weights, expected.weights, solved.loss, expected.loss)
    moved = solved.weights.sum(0) > 0
    shares = (solved.weights / solved.weights.sum(0)).double()[:, moved]
    torch.testing.assert_close(shares, judged_shares(smaller[0], smaller[2])[:, moved], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("selection", POOLS)
@SMALL
@given(seed=SEEDS, constants=st.tuples(*[st.integers(-40, 40)] * 4), order=st.permutations(range(30)))
def test_neither_constants_nor_the_order_of_the_vocabulary_matter(
    selection: str, seed: int, constants: tuple[int, ...], order: list[int]
) -> None:
    large, base, experts = ((part * 64).round() / 64 for part in draw(seed, experts=2))  # such sums are exact in fp32
    plain = solve_weights(large, base, experts, selection=selection)
    moved = experts + torch.tensor(constants[2:])[:, None, None]
    for models in (
        (large + constants[0], base + constants[1], moved),
        (large[:, order], base[:, order], experts[..., order]),
    ):
        solved = solve_weights(*models, selection=selection)
        assert_as_good(solved.weights.sum(0), plain.weights.sum(0), solved.loss, plain.loss)


# Bounds of each expert


def best_within(
    large: Tensor, base: Tensor, experts: Tensor, bounds: list[tuple[float, float]], selection: str
) -> Tensor:
    """The lowest loss of all candidates within the bounds, ``[n]``."""
    shift, lowest = exact.shift_of(base, experts), []
    for ray, (low, high) in enumerate(bounds):
        weights = [low + 0.1 * number for number in range(round((high - low) * 10) + 1)]
        lowest.append(exact.losses(large, base, shift, weights, selection)[:, ray].amin(0))
    return torch.stack(lowest).amin(0)


UNEQUAL = [
    [(0.0, 0.0), (0.0, 2.0), (0.3, 0.9)],
    [(1.0, 2.0), (0.0, 0.1), (0.5, 0.5)],
    [(0.0, 2.0), (1.5, 2.0), (0.0, 0.4)],
]


@pytest.mark.parametrize("selection", ONE_AT_A_TIME)
@pytest.mark.parametrize("bounds", UNEQUAL)
def test_bounds_of_each_expert_leave_the_best_of_what_they_allow(
    bounds: list[tuple[float, float]], selection: str
) -> None:
    large, base, experts = draw(6, leading=(100,))
    solved = solve_weights(large, base, experts, selection=selection, bounds=bounds)
    expected = best_within(large, base, experts, bounds, selection)
    torch.testing.assert_close(solved.loss.double().sqrt(), expected.sqrt(), rtol=2e-5, atol=1e-5)
    rows = torch.arange(100)
    shift, weight, ray = exact.shift_of(base, experts), solved.weights.sum(0), solved.expert.clamp(min=0)
    for row in rows[weight > 0]:
        part = slice(int(row), int(row) + 1)
        own = exact.losses(large[part], base[part], shift[:, part], [float(weight[row])], selection)[0, ray[row], 0]
        assert math.isclose(math.sqrt(own), math.sqrt(expected[row]), rel_tol=2e-5, abs_tol=1e-5)


@pytest.mark.parametrize("rule", SEARCHES)
@pytest.mark.parametrize("selection", ONE_AT_A_TIME)
@pytest.mark.parametrize("bounds", UNEQUAL)
def test_each_ray_stays_within_its_own_bounds(bounds: list[tuple[float, float]], selection: str, rule: str) -> None:
    solved = solve_weights(*draw(7, leading=(200,)), rule=rule, selection=selection, bounds=bounds)
    for weight, (low, high) in zip(solved.weights, bounds, strict=True):
        steering = weight[weight > 0]
        assert ((steering >= low - 1e-6) & (steering <= high + 1e-6)).all()
    assert ((solved.weights > 0).any(1).tolist()) == [high > 0 for _, high in bounds]


def test_newton_with_bounds_of_each_expert_is_never_worse() -> None:
    models = draw(8, leading=(200,))
    for bounds in UNEQUAL:
        grid, newton = (solve_weights(*models, rule=name, selection="matched", bounds=bounds) for name in SEARCHES)
        assert (newton.loss.sqrt() <= grid.loss.sqrt() + RESOLUTION).all()


@pytest.mark.parametrize("rule", SEARCHES)
def test_of_equal_losses_the_lowest_weight_wins_whatever_its_place_in_the_grid(rule: str) -> None:
    large, base, _ = draw(9)
    copies = base.repeat(2, 1, 1)
    solved = solve_weights(large, base, copies, rule=rule, selection="matched", bounds=[(1.0, 2.0), (0.5, 2.0)])
    assert (solved.weights[0] == 0).all()
    assert (solved.weights[1] == 0.5).all()


@pytest.mark.parametrize("rule", SEARCHES)
def test_of_equal_weights_the_first_expert_wins_whatever_its_place_in_the_grid(rule: str) -> None:
    _, base, experts = draw(10, experts=1)
    solved = solve_weights(
        base, base, experts.repeat(2, 1, 1), rule=rule, selection="matched", bounds=[(0.0, 1.0), (1.0, 1.0)]
    )
    assert (solved.expert == 0).all()
    assert (solved.weights[0] == 1).all()


def test_one_pair_is_that_of_every_expert() -> None:
    models = draw(11)
    for selection in ONE_AT_A_TIME:
        one, each, nested = (
            solve_weights(*models, selection=selection, bounds=bounds)
            for bounds in ((0.2, 0.9), [(0.2, 0.9)] * 3, [(0.2, 0.9)])
        )
        assert torch.equal(one.weights, each.weights)
        assert torch.equal(one.weights, nested.weights)


def test_shorter_grids_are_filled_up() -> None:
    grids = make_grids([(0.0, 0.5), (1.0, 1.0), (0.25, 1.25)], 0.25, 3)
    assert grids.T.tolist() == [[0.0, 0.25, 0.5, INF, INF], [1.0] + [INF] * 4, [0.25, 0.5, 0.75, 1.0, 1.25]]
    assert make_grids((0.0, 0.5), 0.25, 3, pooled=True).tolist() == [[0.0], [0.25], [0.5]]


@pytest.mark.parametrize(
    "bounds",
    [
        (),
        [()],
        (1.0,),
        (0.0, 1.0, 2.0),
        [(0.0, 1.0)] * 2,
        [(0.0, 1.0)] * 4,
        [(0.0, 1.0), (1.0, 0.0), (0.0, 1.0)],
        [(0.0, 1.0), (-1.0, 0.0), (0.0, 1.0)],
        [(0.0, 1.0), (0.0, math.nan), (0.0, 1.0)],
        [(0.0, 1.0), (0.0, INF), (0.0, 1.0)],
        [(0.0, 1.0), (0.0,), (0.0, 1.0)],
        [(0.0, 1.0), 0.5, (0.0, 1.0)],
    ],
)
def test_bounds_that_mean_nothing_are_refused(bounds: object) -> None:
    with pytest.raises(ValueError, match="bounds"):
        solve_weights(*draw(12), selection="matched", bounds=bounds)


@pytest.mark.parametrize("selection", POOLS)
def test_pools_refuse_bounds_of_each_expert(selection: str) -> None:
    with pytest.raises(ValueError, match="pool"):
        solve_weights(*draw(12), selection=selection, bounds=[(0.0, 1.0)] * 3)


# Every selection


@pytest.mark.parametrize("rule", SEARCHES)
@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_extremes_stay_finite(dtype: torch.dtype, selection: str, rule: str) -> None:
    for scales in [(1e4, 1e4), (1e4, 1.0), (1.0, 1e4), (1e-6, 1e-6), (0.0, 1.0), (1.0, 0.0), (30.0, 40.0)]:
        models = [part.to(dtype) for part in draw(13, scales=scales)]
        for part in models:
            part[..., :5] = -INF
        for row in (1, 2):  # all but one entry excluded; and by one expert alone
            models[row][..., -1, 6:] = -INF
        before = [part.clone() for part in models]
        solved = solve_weights(*models, rule=rule, selection=selection)
        assert solved.weights.isfinite().all()
        assert solved.loss.isfinite().all()
        assert (solved.loss >= 0).all()
        assert not fuse_logits(*models, solved.weights).isnan().any()
        assert (solved.weights[:, -1] == 0).all()
        assert all(torch.equal(part, old) for part, old in zip(models, before, strict=True))


@pytest.mark.parametrize("rule", SEARCHES)
@pytest.mark.parametrize("selection", SELECTIONS)
def test_rows_do_not_see_each_other(selection: str, rule: str) -> None:
    """Nor a row of extremes beside them, which is solved in another way."""
    large, base, experts = draw(14, leading=(3, 4))
    experts[:, 1, 1] = 40 * experts[:, 1, 1]
    experts[0, 2, 2, :4], large[0, 3, 5:], base[0, 1] = -INF, -INF, base[0, 1] + 1e4
    together = solve_weights(large, base, experts, rule=rule, selection=selection)
    strided = solve_weights(
        large.transpose(0, 1), base.transpose(0, 1), experts.transpose(1, 2), rule=rule, selection=selection
    )
    torch.testing.assert_close(strided.weights, together.weights.transpose(1, 2), rtol=0, atol=1e-4)
    for row, column in [(i, j) for i in range(3) for j in range(4)]:
        alone = solve_weights(
            large[row, column], base[row, column], experts[:, row, column], rule=rule, selection=selection
        )
        torch.testing.assert_close(alone.weights, together.weights[:, row, column], rtol=0, atol=1e-4)
        torch.testing.assert_close(alone.loss, together.loss[row, column], rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("leading", [(), (0,), (2, 0), (2, 1, 2)])
def test_any_leading_shape(leading: tuple[int, ...], selection: str) -> None:
    solved = solve_weights(*draw(15, leading=leading), selection=selection)
    assert solved.weights.shape == (3, *leading)
    assert solved.loss.shape == solved.expert.shape == leading
    assert solved.weights.dtype == solved.loss.dtype == torch.float32
    assert solved.expert.dtype == torch.int64


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("rule", SEARCHES)
def test_experts_that_learnt_nothing_get_no_weight(rule: str, selection: str) -> None:
    large, base, _ = draw(16)
    solved = solve_weights(large, base, base.repeat(3, 1, 1), rule=rule, selection=selection)
    assert (solved.weights == 0).all()
    assert (solved.loss == 0).all()
    assert (solved.expert == -1).all()
    assert torch.equal(fuse_logits(large, base, base.repeat(3, 1, 1), solved.weights), large)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_expert_that_steers_most_is_named(selection: str) -> None:
    solved = solve_weights(*draw(17, leading=(200,)), selection=selection)
    strongest = torch.where(solved.weights.amax(0) > 0, solved.weights.argmax(0), -1)
    assert torch.equal(solved.expert, strongest)
    assert len(solved.expert.unique()) > (1 if selection != "pooled" else 0)
