"""AMU without its parts."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from logitfusion.config.tracks import FewShotReport
from logitfusion.report.fewshot.shared import (
    choose_looks,
    draw_accuracy,
    label_accuracy,
    name_set,
    name_shots,
    select_means,
)
from logitfusion.report.style import GREY, WIDTH, make_axes, name_lines, save_figure, show_percent


def plot_ablation(table: pd.DataFrame, track: FewShotReport, path: str | Path) -> None:
    """AMU, what is left of it without a part, and its parts alone: a row a test set, a column few, more, most shots."""
    names = list(track.ablation) or [track.shown]
    shots = sorted({track.shots[place] for place in (0, len(track.shots) // 2, -1)})
    tasks = list(dict.fromkeys(table["task"]))
    size = (min(WIDTH, 2.6 * len(shots) + 1.4), (0.3 * len(names) + 1.2) * len(tasks))
    figure, axes = make_axes(len(tasks), len(shots), size, sharey=True, sharex="row")
    for line, task in zip(axes, tasks, strict=True):
        for axis, count in zip(line, shots, strict=True):
            means = select_means(table[(table["task"] == task) & (table["shots"] == count)]).set_index("method")
            axis.axvline(means.loc[track.shown, "value"], color=GREY, linestyle=":", linewidth=1, zorder=0)
            for position, (name, look) in enumerate(choose_looks(names, track).items()):
                draw_accuracy(axis, means.loc[name], position, *look)
            axis.set_title(f"{name_set(task, track)}\n{name_shots(count)}")
            axis.set_xlabel(label_accuracy(means))
            show_percent(axis.xaxis)
            name_lines(axis, names)
    description = (
        f"Accuracy of {', '.join(names)} with intervals: a row for each of {', '.join(tasks)}, a column for"
        f" {', '.join(map(name_shots, shots))}; the dotted line is {track.shown}."
    )
    save_figure(figure, path, f"{track.shown} without its parts", description)
