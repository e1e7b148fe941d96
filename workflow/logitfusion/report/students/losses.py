"""Loss curves of students, part by part."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from logitfusion.config.tracks import StudentsTrack
from logitfusion.report.style import colour, make_axes, save_figure

PARTS = {
    "sft": "SFT: cross-entropy, nats a response token",
    "uld": "ULD: sorted L1 of probabilities, a token",
    "gld": "GLD: sorted L1 of node features, a text",
}


def plot_student_losses(curves: dict[str, pd.DataFrame], track: StudentsTrack, path: str | Path) -> None:
    """A panel for each part of the loss that any method has; one line a method, of its first seed.

    Args:
        curves: ``<method>.<seed>`` -> its curve.
    """
    shown = {name: curves[f"{name}.{track.seeds[0]}"] for name in track.methods}
    parts = [part for part in PARTS if any(curve[part].any() for curve in shown.values())]
    figure, axes = make_axes(1, len(parts), (4.6 * len(parts), 3.6))
    for axis, part in zip(axes[0], parts, strict=True):
        for position, (name, curve) in enumerate(shown.items()):
            if curve[part].any():
                axis.plot(curve["step"], curve[part], label=name, color=colour(position))
        axis.set_title(PARTS[part], fontsize=9)
        axis.set_xlabel("optimiser step")
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=7)
    save_figure(figure, path)
