"""Intervals of ratios of means, by Fieller's theorem (1954): no ratio is resampled, and none has to be normal.

A ratio is possible where the numerator less that multiple of the denominator is not told apart from 0, which is a
question about a mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq

from logitfusion.evaluate.crossed import Crossed, Observations, count_degrees, extra_variance, variances

_DOUBLINGS = 200


def ratio_interval(numerator: Observations, denominator: Observations, level: float) -> tuple[float, float, float]:
    """A ratio of two means and its interval at confidence ``1 - level``, over examples and trainings.

    Returns:
        The ratio, NaN where the denominator is not positive; the ends, NaN where the denominator is not told apart
        from 0, so that no finite interval holds the confidence.
    """
    if denominator.value <= 0:
        return (math.nan,) * 3
    ratio = numerator.value / denominator.value
    contrast = _Contrast(numerator, denominator)
    if not contrast.at(0.0, 1.0).p_value < level:
        return ratio, math.nan, math.nan

    def beyond(multiple: float) -> float:
        found = contrast.at(1.0, multiple)
        return abs(found.value) - found.half_width(level)

    return ratio, _find_end(beyond, ratio, -1.0), _find_end(beyond, ratio, 1.0)


class _Contrast:
    """``a numerator - b denominator``, whose variances are quadratic in ``a`` and ``b``."""

    def __init__(self, numerator: Observations, denominator: Observations) -> None:
        self.values = numerator.value, denominator.value
        self.above, self.below = variances(numerator), variances(denominator)
        self.between = (variances(numerator + denominator) - self.above - self.below) / 2
        self.extra = extra_variance(numerator), extra_variance(denominator)
        self.degrees = count_degrees(numerator - denominator)

    def at(self, a: float, b: float) -> Crossed:
        value = a * self.values[0] - b * self.values[1]
        parts = np.maximum(a * a * self.above - 2 * a * b * self.between + b * b * self.below, 0.0)
        extra = a * a * self.extra[0] + b * b * self.extra[1]
        return Crossed(value, parts[0] + extra, parts[1], tuple(parts[2:]), self.degrees)


def _find_end(beyond: Callable[[float], float], ratio: float, direction: float) -> float:
    """Where the interval around a ratio ends on one side."""
    step = max(abs(ratio), 1.0) * 1e-3
    for _ in range(_DOUBLINGS):
        if beyond(ratio + direction * step) > 0:
            return float(brentq(beyond, ratio, ratio + direction * step))
        step *= 2
    return math.nan
