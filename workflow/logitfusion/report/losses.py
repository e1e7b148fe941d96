"""Loss curves of all trainings of a run."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from logitfusion.config.tracks import LossesReport
from logitfusion.report.style import colour, make_axes, save_figure


def plot_losses(curves: dict[str, pd.DataFrame], track: LossesReport, path: str | Path) -> None:
    """Fine-tuning on the left (nats a completion token), healing on the right (KL in nats plus relative distance).

    Args:
        curves: model or expert -> its curve; models that were not trained have an empty one.
    """
    curves = {name: curve for name, curve in curves.items() if len(curve)}
    panels = {
        "fine-tuning: cross-entropy, nats a completion token": [name for name in curves if name not in track.healed],
        "healing: KL(whole || pruned) in nats + hidden-state distance": [
            name for name in curves if name in track.healed
        ],
    }
    panels = {title: names for title, names in panels.items() if names}
    columns = max(len(panels), 1)
    figure, axes = make_axes(1, columns, (5.2 * columns, 3.6))
    for axis, (title, names) in zip(axes[0], panels.items(), strict=False):
        for position, name in enumerate(names):
            axis.plot(curves[name]["step"], curves[name]["loss"], label=name, color=colour(position))
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("optimiser step")
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=8)
    save_figure(figure, path)
