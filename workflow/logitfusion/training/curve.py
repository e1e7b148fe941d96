"""The loss curve of a training, as a CSV beside the model."""

from __future__ import annotations

import csv
from pathlib import Path

from logitfusion.files import whole


def write_curve(path: str | Path, curve: list[dict[str, float]]) -> None:
    """Write ``step, loss, learning_rate`` and parts of the loss; a model that was not trained has only the header."""
    columns = ["step", "loss", "learning_rate"]
    columns += [name for name in (curve[0] if curve else {}) if name not in columns]
    with whole(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(curve)
