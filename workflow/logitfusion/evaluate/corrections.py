"""Many comparisons in one table: p-values that keep the chance of a single false difference in all of it."""

from __future__ import annotations

import numpy as np


def correct_holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down adjusted p-values (1979), whatever the dependence between comparisons.

    Args:
        p_values: ``[comparisons]``; NaN where nothing was tested, which stays NaN and is not counted.
    """
    values = np.asarray(p_values, dtype=float)
    tested = np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    adjusted = np.full(values.shape, np.nan)
    left = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * left), 1.0)
    return adjusted
