"""Scores of all fusion methods on all tasks."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from logitfusion.config.tracks import FusionReport
from logitfusion.report.page import SCORES
from logitfusion.report.style import GREY, colour, draw_interval, make_panels, name_lines, save_figure


def plot_methods(table: pd.DataFrame, track: FusionReport, path: str | Path) -> None:
    """One panel a task: every method's score with its interval; lines mark the large model and the ceiling."""
    scores = table[table["metric"].isin(SCORES)]
    tasks = list(dict.fromkeys(scores["task"]))
    figure, axes = make_panels(len(tasks), 3, (3.6, 0.32 * len(track.methods) + 1.1), margin=1.2)
    for axis, task in zip(axes, tasks, strict=True):
        group = scores[scores["task"] == task].set_index("method")
        for name, style in ((track.base, ":"), (track.ceiling, "--")):
            if name in group.index:
                axis.axvline(group.loc[name, "value"], color=GREY, linestyle=style, linewidth=1, zorder=0)
        for position, method in enumerate(track.methods):
            if method in group.index:
                shade = GREY if method in (track.base, track.ceiling) else colour(position)
                draw_interval(axis, group.loc[method], position, shade)
        first = group.iloc[0]
        axis.set_title(f"{task} (n = {first['n']})", fontsize=10)
        axis.set_xlabel(f"{first['metric'].replace('_', ' ')}, {first['confidence']:.0%} interval")
        axis.set_xlim(-0.02, 1.02)
        name_lines(axis, track.methods)
    save_figure(figure, path)
