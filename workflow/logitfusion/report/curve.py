"""The loss curve of a training, as a CSV beside the model."""

from __future__ import annotations

import csv
from pathlib import Path

from logitfusion.files import whole


def write_curve(path: str | Path, curve: list[dict[str, float]]) -> None:
    """Write ``step, loss, learning_rate`` rows; a model that was not trained has only the header."""
    with whole(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", "loss", "learning_rate"])
        writer.writeheader()
        writer.writerows(curve)
