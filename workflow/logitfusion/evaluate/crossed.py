"""Means over examples and trainings, both of which are a sample: intervals, tests, and how little they can show.

Every example is scored in every training, so the two are crossed random effects: an example may be hard for all
trainings, a training bad on all examples. Two questions are asked of the same numbers. Of *these trainings*: would it
be so on other examples? That is the paired t test over examples. Of the *method*: would it also be so after other
trainings? Nobody can know that well from three, and no resampling of three tells more.

The interval for the second is that of Banerjee (Sankhya 22, 1960), for a mean whose variance is a sum of parts, each
estimated apart: ``half^2 = sum_k t_k^2 V_k``, every part with the quantile of its own degrees of freedom. It holds its
confidence whatever the parts are, because the chance to miss is convex in the variance. One quantile for the sum, by
Satterthwaite (Judd, Westfall and Kenny 2012), is shorter and misses too often where trainings are few, most of all at
the small levels that a correction for many comparisons asks for.

Assumed: examples are independent, trainings are, and means are close to normal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.optimize import brentq
from scipy.special import chdtri, ndtr, stdtr, stdtrit

_LEAST_P = 1e-100
_ROUNDING = 1e-12  # of a mean; what varies less does not vary
_QUANTILES = 100  # of the variance between trainings, over which power is averaged


@dataclass(frozen=True)
class Observations:
    """What each example scored, training by training.

    Attributes:
        blocks: ``[runs, seeds, examples]`` each, one a task (their means are averaged), an axis of length 1 where
            nothing was repeated. Runs and seeds are crossed too: every run has the same seeds within.
        shares: whether examples are scored 0 or 1, or these are differences of such scores.
    """

    blocks: tuple[np.ndarray, ...]
    shares: bool

    @classmethod
    def of(cls, values: np.ndarray) -> Observations:
        """Of one task, ``[runs, seeds, examples]``."""
        return cls((values,), bool(np.isin(values, (0.0, 1.0)).all()))

    @cached_property
    def value(self) -> float:
        """The mean, over tasks of the means over all else."""
        return float(np.mean([block.mean() for block in self.blocks]))

    def __sub__(self, other: Observations) -> Observations:
        return self._combine(np.subtract, other)

    def __add__(self, other: Observations) -> Observations:
        return self._combine(np.add, other)

    def _combine(self, formula: Callable[..., np.ndarray], other: Observations) -> Observations:
        pairs = zip(self.blocks, other.blocks, strict=True)
        return Observations(tuple(formula(*pair) for pair in pairs), self.shares and other.shares)


def average(observations: Sequence[Observations]) -> Observations:
    """The macro-average over tasks."""
    blocks = tuple(block for one in observations for block in one.blocks)
    return Observations(blocks, all(one.shares for one in observations))


@dataclass(frozen=True)
class Crossed:
    """A mean and the parts of its variance.

    Attributes:
        value: the mean.
        examples: its variance if only examples were drawn anew.
        shared: what of that is in ``trainings`` too: examples that are hard in one training only.
        trainings: its variance between runs and between seeds, those of the two that were repeated.
        degrees: of freedom, of examples and then of ``trainings``.
    """

    value: float
    examples: float
    shared: float
    trainings: tuple[float, ...]
    degrees: tuple[int, ...]

    @classmethod
    def of(cls, observations: Observations) -> Crossed:
        """By the mean squares of a two-way layout without replicates; see ``variances``."""
        examples, shared, *trainings = variances(observations)
        value, extra = observations.value, extra_variance(observations)
        return cls(value, examples + extra, shared, tuple(trainings), count_degrees(observations))

    @property
    def alike(self) -> bool:
        """Whether all numbers are: how far others could be from them, they do not say."""
        return math.sqrt(max(self.examples, *self.trainings, 0.0)) < _ROUNDING * abs(self.value)

    def half_width(self, level: float) -> float:
        """Of the interval at confidence ``1 - level``, over examples and trainings; never below that over examples."""
        return float(self._half_width(level, self.trainings))

    def _half_width(self, level: float, trainings: Sequence[float | np.ndarray]) -> np.ndarray:
        """With other variances between trainings than those that were estimated."""
        squares = [quantile(level, degrees) ** 2 for degrees in self.degrees]
        both = squares[0] * max(self.examples - self.shared, 0.0)
        both = both + sum(square * part for square, part in zip(squares[1:], trainings, strict=True))
        return np.sqrt(np.maximum(squares[0] * self.examples, both))

    def interval(self, level: float) -> tuple[float, float]:
        """Over examples and trainings, at confidence ``1 - level``; NaN where all numbers are alike and not 0."""
        half = math.nan if self.alike else self.half_width(level)
        return self.value - half, self.value + half

    @cached_property
    def p_value(self) -> float:
        """Of no difference, over examples and trainings: the least level whose interval excludes 0; NaN without one."""
        if self.value == 0:
            return 1.0
        if self.alike or not math.isfinite(self.half_width(0.5)):
            return math.nan

        def beyond(logarithm: float) -> float:
            return self.half_width(math.exp(logarithm)) - abs(self.value)

        least = math.log(_LEAST_P)
        return math.exp(brentq(beyond, least, 0.0)) if beyond(least) > 0 else _LEAST_P

    @property
    def p_examples(self) -> float:
        """Of no difference between these trainings, over examples: the paired t test."""
        if self.value == 0:
            return 1.0
        if self.of_these().alike:
            return math.nan
        return float(2 * stdtr(self.degrees[0], -abs(self.value) / math.sqrt(self.examples)))

    def of_these(self) -> Crossed:
        """The same mean over examples alone, of the trainings as they are."""
        return replace(self, shared=0.0, trainings=(), degrees=self.degrees[:1])

    def smallest_difference(self, level: float, power: float) -> float:
        """The least true difference that as many examples and trainings show with probability ``power``.

        The test is that of ``p_value`` at ``level``, the variances those that were found.
        """
        deviation = math.sqrt(max(self.examples, self.examples - self.shared + sum(self.trainings)))
        halves = self._likely_half_widths(level)
        if self.alike or not deviation > 0 or not np.isfinite(halves).all():
            return math.nan

        def lacking(difference: float) -> float:
            shown = ndtr((difference - halves) / deviation) + ndtr((-difference - halves) / deviation)
            return float(shown.mean()) - power

        return float(brentq(lacking, 0.0, float(halves.max()) + 10 * deviation))

    def _likely_half_widths(self, level: float) -> np.ndarray:
        """Half widths at equally likely values of the variances between trainings, which few estimate badly."""
        shares = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
        pairs = zip(self.trainings, self.degrees[1:], strict=True)
        drawn = [part * chdtri(degrees, shares) / degrees for part, degrees in pairs]
        return np.ravel(self._half_width(level, np.meshgrid(*drawn)))


def quantile(level: float, degrees: int) -> float:
    """Student's t that is exceeded, in size, with probability ``level``; NaN without degrees of freedom."""
    return float(-stdtrit(degrees, level / 2)) if degrees > 0 else math.nan


def count_degrees(observations: Observations) -> tuple[int, ...]:
    """Degrees of freedom: of examples, of the task that has fewest of them; then of runs and seeds, where repeated."""
    repeated = [size - 1 for size in observations.blocks[0].shape[:2] if size > 1]
    return min(block.shape[-1] for block in observations.blocks) - 1, *repeated


def variances(observations: Observations) -> np.ndarray:
    """Of the mean: over examples; what of it is shared with trainings; over runs and seeds, where repeated.

    Each is a quadratic form of the observations.
    """
    blocks, tasks = observations.blocks, len(observations.blocks)
    examples = sum(_variance_of_mean(block.mean(axis=(0, 1))) for block in blocks) / tasks**2
    shared, trainings = 0.0, []
    for axis in (0, 1):
        if blocks[0].shape[axis] > 1:
            levels = [block.mean(axis=1 - axis) for block in blocks]
            shared += sum(map(_interaction, levels)) / tasks**2
            trainings.append(_variance_of_mean(np.mean([level.mean(axis=1) for level in levels], axis=0)))
    return np.array([examples, shared, *trainings])


def extra_variance(observations: Observations) -> float:
    """Of half an example gained and half an example lost (Agresti and Min 2005), where examples score 0 or 1.

    So methods that never disagree have an interval with a width, and a few examples are not taken for many.
    """
    sizes = [block.shape[-1] for block in observations.blocks] if observations.shares else []
    return sum(1.0 / (size * max(size - 1, 1)) for size in sizes) / len(observations.blocks) ** 2


def _variance_of_mean(values: np.ndarray) -> float:
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else math.nan


def _interaction(values: np.ndarray) -> float:
    """The residual mean square of ``[levels, examples]``, as a part of the variance of the mean."""
    levels, examples = values.shape
    if examples < 2:
        return math.nan
    rest = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    return float((rest**2).sum()) / ((levels - 1) * (examples - 1)) / values.size
