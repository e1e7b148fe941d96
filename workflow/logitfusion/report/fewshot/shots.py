"""Accuracy against shots."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from logitfusion.config.tracks import FewShotReport
from logitfusion.report.fewshot.shared import choose_looks, name_set, select_means
from logitfusion.report.page import count_seeds
from logitfusion.report.style import make_axes, save_figure, show_percent


def plot_shots(table: pd.DataFrame, track: FewShotReport, path: str | Path) -> None:
    """A row a test set: accuracy against shots, AMU with its parts on the left, its rivals on the right.

    Lines are means over seeds, bands one standard deviation of them to both sides.
    """
    tasks = list(dict.fromkeys(table["task"]))
    columns = {"AMU and its parts": list(track.parts)}
    rivals = [name for name in track.methods if name not in track.ablation]
    if rivals:
        columns["rivals"] = list(dict.fromkeys(name for name in (track.clip, track.shown, *rivals) if name))
    size = (5.6 * len(columns), 3.6 * len(tasks) + 0.4)
    figure, axes = make_axes(len(tasks), len(columns), size, sharey="row")
    for line, task in zip(axes, tasks, strict=True):
        mine = table[table["task"] == task]
        for axis, (title, names) in zip(line, columns.items(), strict=True):
            for name, look in choose_looks(names, track).items():
                _draw_method(axis, mine[mine["method"] == name], name, look, track)
            count = f"n = {mine['n'].iloc[0]}, {count_seeds(track.seeds)}"
            axis.set_title(f"{name_set(task, track)}: {title} ({count})", fontsize=9)
            axis.set_xscale("log", base=2)
            axis.set_xticks(track.shots, track.shots)
            axis.minorticks_off()
            axis.set_xlabel("support images of each class (shots)")
            show_percent(axis.yaxis)
        line[0].set_ylabel("accuracy, mean ± std over seeds")
        line[0].set_ylim(*_limits(mine))
    for axis in axes[-1]:
        axis.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncol=3)
    save_figure(figure, path)


def _draw_method(axis: plt.Axes, rows: pd.DataFrame, name: str, look: tuple[str, str], track: FewShotReport) -> None:
    means = select_means(rows).set_index("shots")["value"].sort_index()
    spread = rows[rows["metric"] == "accuracy_std"].set_index("shots")["value"].reindex(means.index).fillna(0.0)
    shade, marker = look
    thick = 2.4 if name == track.shown else 1.4
    shots, middle = means.index.to_numpy(float), means.to_numpy(float)
    style = ":" if name == track.clip else "-"
    axis.plot(shots, middle, label=name, color=shade, marker=marker, markersize=5, linewidth=thick, linestyle=style)
    if spread.any():
        wide = spread.to_numpy(float)
        axis.fill_between(shots, middle - wide, middle + wide, color=shade, alpha=0.13, linewidth=0)


def _limits(table: pd.DataFrame) -> tuple[float, float]:
    values = table[table["metric"] == "accuracy"]["value"]
    room = 0.06 * max(values.max() - values.min(), 0.05)
    return max(values.min() - room, 0.0), min(values.max() + room, 1.0)
