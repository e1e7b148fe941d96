"""Loss curves of all trainings of a run."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from logitfusion.config.tracks import LossesReport
from logitfusion.report.style import FAINT, assign_colours, make_panels, save_figure

KINDS = {
    True: "healing\nKL(whole || pruned), nats,\n+ hidden-state distance",
    False: "cross-entropy\nnats a completion token",
}


def plot_losses(curves: dict[str, pd.DataFrame], track: LossesReport, path: str | Path) -> None:
    """A panel a training, the others of its kind in light grey: fine-tuning, then healing.

    Args:
        curves: model or expert -> its curve; models that were not trained have an empty one.
    """
    curves = {name: curve for name, curve in curves.items() if len(curve)}
    names = sorted(curves, key=lambda name: name in track.healed)
    shades = assign_colours(names)
    figure, axes = make_panels(max(len(names), 1), 3, 2.6, sharey=False)
    for axis, name in zip(axes, names, strict=False):
        healed = name in track.healed
        kind = [other for other in names if (other in track.healed) == healed]
        for other in kind:
            axis.plot(curves[other]["step"], curves[other]["loss"], color=FAINT, linewidth=1, zorder=1)
        axis.plot(curves[name]["step"], curves[name]["loss"], color=shades[name], zorder=2)
        axis.set_title(name)
        axis.set_xlabel("optimiser step")
        axis.set_ylim(0, 1.05 * max(curves[other]["loss"].max() for other in kind))
        if axis.get_subplotspec().is_first_col() or name == kind[0]:
            axis.set_ylabel(KINDS[healed])
    description = f"Training loss against optimiser steps, a panel for each of {', '.join(names) or 'no model'}."
    save_figure(figure, path, "Loss curves of models and experts", description)
