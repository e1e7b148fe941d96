"""Accuracy in and out of distribution."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from logitfusion.config.tracks import FewShotReport
from logitfusion.report.fewshot.shared import draw_accuracy, label_accuracy, select_means
from logitfusion.report.page import count_seeds
from logitfusion.report.style import GREY, colour, make_axes, name_lines, save_figure, show_percent

MARKERS = "os^Dv"


def plot_shift(table: pd.DataFrame, track: FewShotReport, path: str | Path) -> None:
    """All methods at the most shots on a data set (filled) and on the sets that are a shift of it (hollow)."""
    shots = track.shots[-1]
    shifted = [sets for sets in track.sets.values() if len(sets) > 1]
    lines = max(len(shifted), 1)
    figure, axes = make_axes(lines, 1, (7.5, (0.32 * len(track.methods) + 1.8) * lines))
    for axis, sets in zip(axes[:, 0], shifted, strict=False):
        for place, task in enumerate(sets):
            means = select_means(table[(table["task"] == task) & (table["shots"] == shots)]).set_index("method")
            fill = {"markerfacecolor": "white"} if place else {}
            look = (colour(place), MARKERS[place % len(MARKERS)])
            for position, name in enumerate(track.methods):
                draw_accuracy(axis, means.loc[name], position + (0.16 if place else -0.16), *look, **fill)
            label = f"{task} (n = {means['n'].iloc[0]})" + (", out of distribution" if place else "")
            axis.errorbar([], [], fmt=look[1], color=look[0], label=label, **fill)
        name_lines(axis, track.methods)
        axis.set_xlabel(f"{label_accuracy(means)}; {shots} shots, {count_seeds(track.seeds)}")
        show_percent(axis.xaxis)
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=2)
    if not shifted:
        axes[0, 0].set_axis_off()
        axes[0, 0].text(0, 0.5, "No data set of this run has a shifted one.", color=GREY)
    description = (
        f"Accuracy of every method at {shots} shots with its interval, on a data set and, hollow, on the same classes"
        f" in another style: {'; '.join(', '.join(sets) for sets in shifted) or 'none here'}."
    )
    save_figure(figure, path, "In and out of distribution", description)
