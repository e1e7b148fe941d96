"""Loss curves of all trainings of a run."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from logitfusion.report.style import colour, save_figure, use_style


def plot_losses(curves: dict[str, pd.DataFrame], healed: set[str], path: str | Path) -> None:
    """Fine-tuning on the left (nats a completion token), healing on the right (KL in nats plus relative distance)."""
    use_style()
    panels = {
        "fine-tuning: cross-entropy, nats a completion token": [name for name in curves if name not in healed],
        "healing: KL(whole || pruned) in nats + hidden-state distance": [name for name in curves if name in healed],
    }
    panels = {title: names for title, names in panels.items() if names}
    figure, axes = plt.subplots(1, max(len(panels), 1), figsize=(5.2 * max(len(panels), 1), 3.6), squeeze=False)
    for axis, (title, names) in zip(axes[0], panels.items(), strict=False):
        for position, name in enumerate(names):
            axis.plot(curves[name]["step"], curves[name]["loss"], label=name, color=colour(position))
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("optimiser step")
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=8)
    save_figure(figure, path)
