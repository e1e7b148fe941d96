"""Paired bootstrap intervals: every method is resampled with the same examples, so differences keep their pairs."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np


def resample_means(correct: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means of resampled examples, ``[methods, n] -> [methods, resamples]``, the same examples for every method."""
    counts = _draw_counts(correct.shape[1], resamples, rng)
    return correct.astype(float) @ counts / len(counts)


def _draw_counts(examples: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each example is drawn, ``[examples, resamples]``."""
    chosen = rng.integers(examples, size=(resamples, examples))
    counts = np.zeros((resamples, examples))
    np.add.at(counts, (np.arange(resamples)[:, None], chosen), 1)
    return counts.T


def resample_seeds_and_means(
    correct: dict[Any, np.ndarray], resamples: int, rng: np.random.Generator
) -> dict[Any, np.ndarray]:
    """Means over resampled training seeds and resampled examples, ``[seeds, n] -> [resamples]`` for each method.

    The same examples for all methods, and the same seeds for all methods that have equally many.
    """
    counts = _draw_counts(next(iter(correct.values())).shape[1], resamples, rng)
    most = max(len(values) for values in correct.values())
    draws = {size: rng.integers(size, size=(resamples, size)) for size in range(1, most + 1)}
    found = {}
    for name, values in correct.items():
        means = values.astype(float) @ counts / len(counts)
        found[name] = np.take_along_axis(means, draws[len(values)].T, axis=0).mean(axis=0)
    return found


def percentile_interval(samples: np.ndarray, confidence: float) -> tuple[float, float]:
    """The central interval of bootstrap samples; NaN where more than a twentieth of them are not finite."""
    finite = samples[np.isfinite(samples)]
    if len(finite) < 0.95 * len(samples):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def score_ratio(score: np.ndarray, ceiling: np.ndarray) -> np.ndarray:
    """``score / ceiling``: the figure that the paper calls closing the gap."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(ceiling > 0, np.divide(score, ceiling), np.nan)


def gap_closure(score: np.ndarray, base: np.ndarray, ceiling: np.ndarray) -> np.ndarray:
    """``(score - base) / (ceiling - base)``: 0 is the untouched large model, 1 the ceiling, NaN no gap."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(ceiling > base, np.divide(score - base, ceiling - base), np.nan)


def wilson_interval(successes: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share (1927); all of 0 to 1 where nothing was counted."""
    if count == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = successes / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_interval(gained: int, lost: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Of the difference of two shares of right answers to the same ``count`` examples (Agresti and Min 2005).

    Wald's interval with half an example more in each of the four cells, so that it has a width where the two never
    disagree, and holds its confidence for few examples.

    Args:
        gained: examples that only the first has right.
        lost: those that only the second has right.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    total = count + 2.0
    difference, discordant = (gained - lost) / total, (gained + lost + 1.0) / total
    half = z * math.sqrt((discordant - difference**2) / total)
    return max(-1.0, difference - half), min(1.0, difference + half)
