"""The loss curve of a training and its evaluations, as CSV beside the model."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from logitfusion.files import whole


def write_curve(path: str | Path, curve: Sequence[Mapping[str, float]]) -> None:
    """Write ``step, loss, learning_rate`` and parts of the loss; a model that was not trained has only the header."""
    _write(path, curve, ("step", "loss", "learning_rate"))


def write_evaluations(path: str | Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write ``step, loss`` and whatever else was found in the evaluations of a training."""
    _write(path, rows, ("step", "loss"))


def _write(path: str | Path, curve: Sequence[Mapping[str, float]], first: Sequence[str]) -> None:
    # From the last row on: those that a checkpoint has kept have their names in another order, the alphabet's.
    columns = dict.fromkeys([*first, *(name for row in reversed(curve) for name in row)])
    with whole(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(curve)
