"""Scores of students on all tasks."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from logitfusion.config.tracks import StudentsTrack
from logitfusion.report.page import SCORES, count_seeds
from logitfusion.report.style import GREY, colour, draw_interval, make_panels, name_lines, save_figure


def plot_students(table: pd.DataFrame, track: StudentsTrack, path: str | Path) -> None:
    """A panel a task: every method's score with its interval, its seeds as small dots; grey: untrained models."""
    scores = table[table["metric"].isin(SCORES)]
    tasks, names = list(dict.fromkeys(scores["task"])), list(track.trials)
    figure, axes = make_panels(len(tasks), 3, (3.6, 0.32 * len(names) + 1.1), margin=1.6)
    for axis, task in zip(axes, tasks, strict=True):
        group = scores[scores["task"] == task]
        means, seeds = group[group["ci_low"].notna()].set_index("method"), group[group["ci_low"].isna()]
        for position, name in enumerate(names):
            shade = colour(position) if name in track.methods else GREY
            draw_interval(axis, means.loc[name], position, shade)
            dots = seeds[seeds["method"] == name]["value"]
            axis.scatter(dots, [position + 0.22] * len(dots), s=9, color=shade, alpha=0.7)
        first = means.iloc[0]
        axis.set_title(f"{task} (n = {first['n']}, {count_seeds(track.seeds)})", fontsize=10)
        axis.set_xlabel(f"{first['metric'].replace('_', ' ')}, {first['confidence']:.0%} interval")
        name_lines(axis, names)
    save_figure(figure, path)
