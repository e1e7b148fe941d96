"""Means over examples and trainings: closed forms, scipy's tests, and the level and cover in simulated studies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from logitfusion.evaluate.corrections import correct_holm
from logitfusion.evaluate.crossed import Crossed, Observations, average
from logitfusion.evaluate.ratios import ratio_interval

RNG = np.random.default_rng


def draw_study(
    rng: np.random.Generator, examples: float, trainings: float, both: float, *, seeds: int = 3, size: int = 40
) -> Observations:
    """Normal differences of mean 0; given are standard deviations of examples, trainings, and both together."""
    values = examples * rng.standard_normal(size) + trainings * rng.standard_normal((seeds, 1, 1))
    return Observations((values + both * rng.standard_normal((seeds, 1, size)),), shares=False)


# ---- closed forms


def test_one_training_is_the_paired_t_test() -> None:
    values = RNG(0).normal(0.3, 1, (1, 1, 30))
    crossed, theirs = Crossed.of(Observations((values,), False)), stats.ttest_1samp(values[0, 0], 0)
    assert crossed.p_value == pytest.approx(theirs.pvalue)
    assert crossed.p_examples == pytest.approx(theirs.pvalue)
    assert crossed.interval(0.1) == pytest.approx(tuple(theirs.confidence_interval(0.9)))


def test_where_examples_are_alike_it_is_the_t_test_over_trainings() -> None:
    means = np.array([0.1, 0.4, 0.3])
    crossed = Crossed.of(Observations((np.repeat(means, 20).reshape(3, 1, 20),), False))
    theirs = stats.ttest_1samp(means, 0)
    assert crossed.p_value == pytest.approx(theirs.pvalue)
    assert crossed.interval(0.05) == pytest.approx(tuple(theirs.confidence_interval(0.95)))


def test_the_parts_of_the_variance_are_those_of_the_two_way_layout() -> None:
    """Mean squares by hand, of which those of the textbook's expected values are combined."""
    values = RNG(1).normal(size=(3, 25)) + RNG(2).normal(size=25)
    crossed = Crossed.of(Observations((values[:, None],), False))
    rows, columns, grand = values.mean(1), values.mean(0), values.mean()
    between = 25 * ((rows - grand) ** 2).sum() / 2
    examples = 3 * ((columns - grand) ** 2).sum() / 24
    rest = ((values - rows[:, None] - columns + grand) ** 2).sum() / (2 * 24)
    assert crossed.examples == pytest.approx(examples / 75)
    assert crossed.shared == pytest.approx(rest / 75)
    assert crossed.trainings == pytest.approx((between / 75,))
    assert crossed.degrees == (24, 2)
    t = [stats.t.isf(0.025, degrees) for degrees in (24, 2)]
    half = math.sqrt(t[0] ** 2 * (examples - rest) / 75 + t[1] ** 2 * between / 75)
    assert crossed.half_width(0.05) == pytest.approx(max(half, t[0] * math.sqrt(examples / 75)))


def test_runs_and_seeds_within_them_are_both_trainings() -> None:
    values = RNG(3).normal(size=(3, 4, 20))
    crossed = Crossed.of(Observations((values,), False))
    assert crossed.trainings == pytest.approx(
        [values.mean((1, 2)).var(ddof=1) / 3, values.mean((0, 2)).var(ddof=1) / 4]
    )
    assert crossed.degrees == (19, 2, 3)


def test_an_average_of_tasks_weighs_tasks_alike_and_adds_their_variances() -> None:
    few, many = RNG(4).normal(size=(1, 1, 10)), RNG(5).normal(size=(1, 1, 90))
    both = Crossed.of(average([Observations((one,), False) for one in (few, many)]))
    assert both.value == pytest.approx((few.mean() + many.mean()) / 2)
    assert both.examples == pytest.approx((few.var(ddof=1) / 10 + many.var(ddof=1) / 90) / 4)
    assert both.degrees == (9,)


def test_a_method_without_training_adds_nothing_for_seeds() -> None:
    same = np.broadcast_to((RNG(6).random(50) < 0.6).astype(float), (3, 1, 50))
    alone = Crossed.of(Observations.of(same[:1]))
    repeated = Crossed.of(Observations.of(same))
    assert repeated.interval(0.05) == pytest.approx(alone.interval(0.05))
    assert repeated.p_value == pytest.approx(alone.p_value)


def test_methods_that_never_disagree_have_an_interval_with_a_width() -> None:
    nothing = Observations.of(np.ones((1, 1, 100))) - Observations.of(np.ones((1, 1, 100)))
    crossed = Crossed.of(nothing)
    assert crossed.p_value == 1
    assert crossed.interval(0.05) == pytest.approx((-0.02, 0.02), abs=0.001)


def test_few_disagreements_are_not_taken_for_many() -> None:
    """Five examples gained and none lost: the exact test says 1/16; a t test of the differences says 0.02."""
    gained = np.zeros((1, 1, 500))
    gained[..., :5] = 1
    crossed = Crossed.of(Observations.of(gained) - Observations.of(np.zeros((1, 1, 500))))
    assert stats.ttest_1samp(gained[0, 0], 0).pvalue < 0.03 < crossed.p_value < 2 * 0.5**5


def test_one_example_shows_nothing() -> None:
    crossed = Crossed.of(Observations((np.ones((1, 1, 1)),), False))
    assert math.isnan(crossed.p_value)
    assert math.isnan(crossed.interval(0.05)[0])
    assert math.isnan(crossed.smallest_difference(0.05, 0.8))


@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 1, 200), (3, 2, 5)])
@pytest.mark.parametrize("value", [0.5, 1 / 3, -0.1])
def test_numbers_that_are_all_alike_do_not_say_how_far_others_may_be(shape: tuple[int, ...], value: float) -> None:
    """Of a metric with parts of an example: two answers that are half right are no proof of anything."""
    alike = Observations.of(np.full(shape, value))
    crossed = Crossed.of(alike)
    told = (crossed.p_value, crossed.p_examples, *crossed.interval(0.05), crossed.smallest_difference(0.05, 0.8))
    assert np.isnan(told).all()
    assert ratio_interval(alike, alike, 0.05)[0] == pytest.approx(1) or value < 0
    assert np.isnan(ratio_interval(alike, alike, 0.05)[1:]).all()
    assert Crossed.of(alike - alike).p_value == 1


# ---- properties


@given(seed=st.integers(0, 2**32 - 1), runs=st.integers(1, 3), seeds=st.integers(1, 3), size=st.integers(2, 12))
def test_p_value_interval_order_and_sign_agree(seed: int, runs: int, seeds: int, size: int) -> None:
    rng = RNG(seed)
    values = rng.normal(rng.normal(), 1, (runs, seeds, size))
    crossed = Crossed.of(Observations((values,), False))
    if 1e-12 < crossed.p_value < 1:
        assert crossed.half_width(crossed.p_value) == pytest.approx(abs(crossed.value), rel=1e-6)
    assert crossed.p_value >= crossed.p_examples * (1 - 1e-6), "what other trainings show, these show too"
    shuffled = rng.permutation(values, axis=2)[rng.permutation(runs)][:, rng.permutation(seeds)]
    again, turned = (Crossed.of(Observations((one,), False)) for one in (shuffled, -values))
    assert again.interval(0.05) == pytest.approx(crossed.interval(0.05), abs=1e-9)
    assert turned.p_value == pytest.approx(crossed.p_value, rel=1e-6)


# ---- what simulated studies show

NO_SEEDS, SOME_SEEDS, ALL_SEEDS, ALONE = (1, 0, 1), (1, 0.2, 1), (0.1, 1, 0.1), (0, 0, 1)
STUDIES = 1500


def study_results(parts: tuple[float, float, float], studies: int = STUDIES) -> Iterator[Crossed]:
    rng = RNG(11)
    return (Crossed.of(draw_study(rng, *parts)) for _ in range(studies))


@pytest.mark.parametrize("parts", [NO_SEEDS, SOME_SEEDS, ALL_SEEDS, ALONE])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_three_seeds_keep_the_level_whether_they_vary_or_not(parts: tuple[float, float, float], level: float) -> None:
    """Within what chance leaves of it: three standard deviations of a binomial share."""
    missed = np.mean([abs(one.value) > one.half_width(level) for one in study_results(parts)])
    assert missed <= level + 3 * math.sqrt(level * (1 - level) / STUDIES)


def test_where_seeds_vary_an_interval_over_examples_alone_misses_often() -> None:
    """Else the other one would be for nothing."""
    missed = np.mean([one.p_examples < 0.05 for one in study_results(ALL_SEEDS, 200)])
    assert missed > 0.5


@pytest.mark.parametrize("parts", [NO_SEEDS, SOME_SEEDS])
def test_the_smallest_difference_is_shown_with_the_power_asked_for(parts: tuple[float, float, float]) -> None:
    rng = RNG(12)
    large = Crossed.of(draw_study(rng, *parts, seeds=400, size=400))  # variances that are nearly known
    planned = replace(
        large, examples=(parts[0] ** 2 + parts[2] ** 2 / 3) / 40, shared=parts[2] ** 2 / 120,
        trainings=(parts[1] ** 2 / 3 + parts[2] ** 2 / 120,), degrees=(39, 2),
    )  # fmt: skip
    smallest = planned.smallest_difference(0.05, 0.8)
    shown = np.mean([abs(one.value + smallest) > one.half_width(0.05) for one in study_results(parts)])
    assert shown == pytest.approx(0.8, abs=0.04)


def test_one_training_has_the_power_of_the_normal_test() -> None:
    crossed = Crossed(0.0, 0.01**2, 0.0, (), (10**6,))
    expected = 0.01 * (stats.norm.isf(0.025) + stats.norm.isf(0.2))
    assert crossed.smallest_difference(0.05, 0.8) == pytest.approx(expected, rel=1e-4)


# ---- ratios


def test_fieller_s_interval_is_the_closed_form() -> None:
    """Of two means of the same examples (Fieller 1954), by the roots of its quadratic equation."""
    above, below = RNG(7).normal(1.0, 1, 60), RNG(8).normal(2.0, 1, 60)
    pair = (Observations((one.reshape(1, 1, -1),), False) for one in (above, below))
    found = ratio_interval(*pair, 0.05)
    t2 = stats.t.isf(0.025, 59) ** 2 / 60
    a, b, ab = above.var(ddof=1), below.var(ddof=1), np.cov(above, below)[0, 1]
    polynomial = [below.mean() ** 2 - t2 * b, -2 * (above.mean() * below.mean() - t2 * ab), above.mean() ** 2 - t2 * a]
    assert found == pytest.approx([above.mean() / below.mean(), *sorted(np.roots(polynomial))])


def test_a_ratio_to_what_is_not_told_from_0_has_no_interval() -> None:
    ones = Observations.of(np.ones((1, 1, 30)))
    noise = Observations((np.tile([1.0, -0.9], 15).reshape(1, 1, 30),), False)
    assert ratio_interval(ones, noise, 0.05)[0] == pytest.approx(20)
    assert np.isnan(ratio_interval(ones, noise, 0.05)[1:]).all()
    assert np.isnan(ratio_interval(ones, Observations.of(np.zeros((1, 1, 30))), 0.05)).all()


def test_a_ratio_to_itself_is_one() -> None:
    right = Observations.of((RNG(9).random((3, 1, 80)) < 0.7).astype(float))
    ratio, low, high = ratio_interval(right, right, 0.05)
    assert ratio == 1
    assert low <= 1 <= high


# ---- many comparisons


def test_holm_by_hand() -> None:
    """Holm (1979): 4 x .01, 3 x .02, then never less than before; at most 1."""
    assert correct_holm(np.array([0.03, 0.01, 0.9, 0.02])) == pytest.approx([0.06, 0.04, 0.9, 0.06])
    assert correct_holm(np.array([0.5, 0.7])) == pytest.approx([1.0, 1.0])
    found = correct_holm(np.array([0.02, np.nan, 0.04]))
    assert found[[0, 2]] == pytest.approx([0.04, 0.04])
    assert np.isnan(found[1]), "what was not tested is not counted"
    assert len(correct_holm(np.array([]))) == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms())
def test_holm_lies_between_one_test_and_bonferroni_in_any_order(p_values: list[float], random: object) -> None:
    values = np.array(p_values)
    adjusted = correct_holm(values)
    assert (adjusted >= values).all()
    assert (adjusted <= np.minimum(values * len(values), 1) + 1e-12).all()
    order = list(range(len(values)))
    random.shuffle(order)
    assert correct_holm(values[order]) == pytest.approx(adjusted[order])
