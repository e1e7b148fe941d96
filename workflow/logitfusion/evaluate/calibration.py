"""How far probabilities are from the shares of right answers."""

from __future__ import annotations

import numpy as np

BINS = 15


def expected_calibration_error(probabilities: np.ndarray, correct: np.ndarray) -> float:
    """Expected calibration error (Guo et al., arXiv 1706.04599), 15 bins of equal width: ``[n]``, ``[n]`` -> 0 to 1."""
    place = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    gaps = np.zeros(BINS)
    np.add.at(gaps, place, correct.astype(float) - probabilities)
    return float(np.abs(gaps).sum() / len(probabilities))
