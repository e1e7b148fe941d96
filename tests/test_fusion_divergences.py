"""The fast pass over all candidates: right to within its resolution, or not finite."""

from __future__ import annotations

import exact
import pytest
import torch
from exact import ABSOLUTE, PAPER, RELATIVE
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from logitfusion.fusion import divergences as module
from logitfusion.fusion import solve_weights
from logitfusion.fusion.divergences import divergences_on_grid
from logitfusion.fusion.selections import SELECTIONS

INF = torch.inf
SMALL = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10**6)


def draw(
    seed: int, rays: int = 1, rows: int = 3, vocabulary: int = 12, scale: float = 3.0, shift: float = 1.0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    base = scale * torch.randn(rows, vocabulary, generator=generator)
    return base, shift * torch.randn(rays, rows, vocabulary, generator=generator)


def words(seed: int, rows: int, vocabulary: int, sharpness: float = 2.0) -> Tensor:
    """Logits whose probabilities fall like those of a language's words, in an order of their own in every row."""
    generator = torch.Generator().manual_seed(seed)
    falling = -1.1 * sharpness * (torch.arange(vocabulary) + 3.7).log()
    return torch.stack([falling[torch.randperm(vocabulary, generator=generator)] for _ in range(rows)])


def fast(base: Tensor, shift: Tensor, low: float = 0.0, step: float = 0.1, count: int = 21) -> Tensor:
    return torch.stack(divergences_on_grid(base, shift, torch.full((len(shift),), low), step, count))


def assert_right(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected, atol=ABSOLUTE, rtol=RELATIVE)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 21, 201])
@pytest.mark.parametrize("low", [0.0, 0.35, 1.5])
@pytest.mark.parametrize("vocabulary", [1, 2, 30])
def test_every_candidate_is_right(count: int, low: float, vocabulary: int) -> None:
    base, shift = draw(count, rays=2, vocabulary=vocabulary)
    step = 2.0 / count
    weights = [low + step * number for number in range(count)]
    assert_right(fast(base, shift, low, step, count), exact.on_grid(base, shift, weights))


def test_every_ray_starts_at_its_own_weight() -> None:
    base, shift = draw(1, rays=3)
    lows = [0.0, 0.5, 1.25]
    found = torch.stack(divergences_on_grid(base, shift, torch.tensor(lows), 0.25, 4))
    for ray, low in enumerate(lows):
        weights = [low + 0.25 * number for number in range(4)]
        assert_right(found[:, :, ray], exact.on_grid(base, shift, weights)[:, :, ray])


@pytest.mark.parametrize("low", [0.0, 0.5])
@pytest.mark.parametrize("vocabulary", [15, 16, 17, 100])
def test_blocks_of_rows_and_of_the_vocabulary_add_up(
    vocabulary: int, low: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 or 32 entries wide, two to four rows high, in slices of five."""
    base, shift = draw(2, rays=2, rows=7, vocabulary=vocabulary)
    base[3, 5] = -INF
    shift[:, 3, 5] = 0.0
    for name, value in (("_BLOCK", 64), ("_BLOCK_WIDTH", 16), ("_SLICE", 5)):
        monkeypatch.setattr(module, name, value)
    weights = [low + tenth for tenth in PAPER]
    assert_right(fast(base, shift, low), exact.on_grid(base, shift, weights))


@SMALL
@given(seed=SEEDS, masked=st.sets(st.integers(0, 11), max_size=11), scale=st.sampled_from([0.1, 3.0, 30.0]))
def test_masked_entries_might_as_well_not_be_there(seed: int, masked: set[int], scale: float) -> None:
    base, shift = draw(seed, rays=2, scale=scale)
    kept = [entry for entry in range(12) if entry not in masked]
    expected = fast(base[:, kept], shift[..., kept])
    base[:, list(masked)], shift[..., list(masked)] = -INF, 0.0
    torch.testing.assert_close(fast(base, shift), expected, atol=ABSOLUTE, rtol=RELATIVE, equal_nan=True)


@pytest.mark.parametrize("low", [0.0, 1.5])
@pytest.mark.parametrize("constant", [-10_000.0, -30.0, 10.0, 1000.0, 10_000.0])
@pytest.mark.parametrize("vocabulary", [30, 20_000])
def test_constants_change_nothing(vocabulary: int, constant: float, low: float) -> None:
    """fp32 does not hold a mean of 1e4 to 1e-6, nor do its probabilities add up to 1 so well."""
    base, shift = draw(3, vocabulary=vocabulary)
    base, shift = (base * 64).round() / 64, (shift * 64).round() / 64  # sums with the constant are exact
    expected = exact.on_grid(base, shift, [low + tenth for tenth in PAPER])
    assert_right(fast(base, shift + constant, low), expected)
    assert_right(fast(base + constant, shift, low), expected)


@pytest.mark.parametrize("low", [0.0, 0.5])
@pytest.mark.parametrize("shift", [0.03, 1.0, 3.0])
@pytest.mark.parametrize(("rows", "vocabulary"), [(1, 150_000), (20, 8_192)])
def test_large_vocabularies_are_as_precise(rows: int, vocabulary: int, shift: float, low: float) -> None:
    base, direction = words(4, rows, vocabulary), draw(4, rows=rows, vocabulary=vocabulary, shift=shift)[1]
    weights = [low, low + 0.9, low + 2.0]
    found = fast(base, direction, low)[:, [0, 9, 20]]
    assert found.isfinite().all()
    assert_right(found, exact.on_grid(base, direction, weights))


@SMALL
@given(
    gaps=st.lists(st.integers(0, 240), min_size=1, max_size=4),
    jumps=st.lists(st.integers(-160, 160), min_size=5, max_size=5),
    low=st.sampled_from([0.0, 0.75]),
)
def test_extremes_are_right_or_not_finite(gaps: list[int], jumps: list[int], low: float) -> None:
    """Probabilities that fp32 does not hold may be what a shift makes likely, and powers may overflow."""
    base, shift = torch.tensor([[0.0, *(-gap for gap in gaps)]]), torch.tensor([[jumps[: len(gaps) + 1]]]).float()
    found, expected = fast(base, shift, low), exact.on_grid(base, shift, [low + tenth for tenth in PAPER])
    finite = found.isfinite()
    assert_right(found[finite], expected[finite])


@pytest.mark.parametrize("gap", [90.0, 100.0, 104.0, 110.0, 150.0])
@pytest.mark.parametrize("jump", [50.0, 60.0, 80.0])
def test_probabilities_that_fp32_loses_are_never_missed(gap: float, jump: float) -> None:
    base, shift = torch.tensor([[0.0, -gap]]), torch.tensor([[[0.0, jump]]])
    found, expected = fast(base, shift), exact.on_grid(base, shift, PAPER)
    finite = found.isfinite()
    assert_right(found[finite], expected[finite])
    assert finite[:, 0].all()


def test_powers_beyond_the_precision_of_fp32_are_not_finite() -> None:
    """Not yet an overflow, but a small divergence is the difference of two numbers near 100."""
    generator = torch.Generator().manual_seed(5)
    base = -100 * torch.rand(12_000, 3, generator=generator)
    shift = 400 * (torch.rand(1, 12_000, 3, generator=generator) - 0.5)
    found, expected = fast(base, shift), exact.on_grid(base, shift, PAPER)
    finite = found.isfinite()
    assert_right(found[finite], expected[finite])
    assert finite[:, :3].double().mean() > 0.9


@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
def test_what_is_not_extreme_is_finite(scale: float) -> None:
    """Otherwise the careful pass would do all the work."""
    base, shift = draw(5, rays=2, rows=50, vocabulary=100, scale=scale, shift=2.0)
    assert fast(base, shift).isfinite().all()
    assert fast(torch.tensor([[0.0, -50.0]]), torch.tensor([[[0.0, 24.0]]])).isfinite().all()


def test_nothing_is_moved_by_a_weight_of_0_or_a_shift_of_nothing() -> None:
    base, shift = draw(6, rays=2, vocabulary=5_000)
    assert (fast(base, shift)[:, 0] == 0).all()
    assert (fast(base, shift * 0) < ABSOLUTE).all()


def test_inputs_are_left_as_they_were() -> None:
    base, shift = draw(7)
    before = base.clone(), shift.clone()
    for count in (1, 2, 21):
        fast(base, shift, 0.5, 0.1, count)
    assert torch.equal(base, before[0])
    assert torch.equal(shift, before[1])


# What the solver makes of it


def assert_best(large: Tensor, base: Tensor, experts: Tensor, selection: str) -> None:
    exact.assert_best(solve_weights(large, base, experts, selection=selection), large, base, experts, selection)


@pytest.mark.parametrize("selection", SELECTIONS)
@SMALL
@given(
    seed=SEEDS,
    experts=st.integers(1, 4),
    vocabulary=st.integers(1, 64),
    scale=st.sampled_from([0.01, 0.3, 3.0, 30.0]),
    shift=st.sampled_from([0.01, 0.3, 3.0, 30.0]),
)
def test_the_chosen_weight_is_the_best(
    selection: str, seed: int, experts: int, vocabulary: int, scale: float, shift: float
) -> None:
    base, direction = draw(seed, experts, 8, vocabulary, scale, shift)
    large = draw(seed + 1, 1, 8, vocabulary, scale)[0]
    assert_best(large, base, base + direction, selection)


@pytest.mark.parametrize(
    ("selection", "constant"),
    # A pool's direction is a rounded sum, which holds no constant of 1e4.
    [*((name, constant) for name in SELECTIONS for constant in (0.0, 10.0)), ("one_hot", 1e4), ("matched", 1e4)],
)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_hard_rows_get_the_best_weight(selection: str, constant: float, scale: float) -> None:
    """Many rows, so that some are close calls; logits rounded like bf16, so that constants are exact."""
    base, direction = draw(8, 3, 1_000, 20, scale, scale)
    large = draw(9, 1, 1_000, 20, scale)[0]
    models = [(part * 64).round() / 64 for part in (large, base, base + direction)]
    shifted = models[2] + constant
    assert_best(*models[:2], shifted, selection)


@pytest.mark.parametrize("selection", ["matched", "judged"])
def test_a_real_vocabulary_gets_the_best_weight(selection: str) -> None:
    rows, vocabulary = 12, 50_000
    large, noise = words(10, rows, vocabulary), draw(10, 3, rows, vocabulary, 1.0, 0.7)
    base = 0.9 * large + noise[0]
    assert_best(large, base, base + noise[1][:2] + 10, selection)


def test_the_lowest_precision_of_a_caller_changes_nothing() -> None:
    base, direction = draw(11, 3, 20, 100)
    large = draw(12, 1, 20, 100)[0]
    for selection in SELECTIONS:
        plain = solve_weights(large, base, base + direction, selection=selection)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            lowered = solve_weights(large, base, base + direction, selection=selection)
        assert torch.equal(plain.weights, lowered.weights)
        assert torch.equal(plain.loss, lowered.loss)
