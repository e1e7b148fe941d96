"""Accuracy against shots."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from logitfusion.config.tracks import FewShotReport
from logitfusion.report.fewshot.shared import choose_looks, name_set, select_means
from logitfusion.report.page import count_seeds
from logitfusion.report.style import FAINT, GREY, WIDTH, make_axes, save_figure, show_percent

COLUMNS = 4


def plot_shots(table: pd.DataFrame, track: FewShotReport, path: str | Path) -> None:
    """A panel a method: accuracy against shots, the others in light grey; the test sets below each other.

    Lines are means over seeds, bands one standard deviation of them to both sides; dotted is CLIP alone.
    """
    tasks = list(dict.fromkeys(table["task"]))
    names = [name for name in track.methods if name != track.clip] or list(track.methods)
    columns = min(COLUMNS, len(names))
    lines = -(-len(names) // columns)
    size = (1 + (WIDTH - 1) / COLUMNS * columns, 2.1 * lines * len(tasks) + 0.4)
    figure, axes = make_axes(lines * len(tasks), columns, size, sharex=True)
    for place, task in enumerate(tasks):
        mine = table[table["task"] == task]
        block = axes[lines * place : lines * (place + 1)]
        for number, axis in enumerate(block.flat):
            axis.set_visible(number < len(names))
        for axis, name in zip(block.flat, names, strict=False):
            _draw_panel(axis, mine, name, names, track)
            axis.set_ylim(*_limits(mine))
            axis.set_title(name)
        count = f"n = {mine['n'].iloc[0]}, {count_seeds(track.seeds)}"
        block[0, 0].set_title(f"{name_set(task, track)} ({count})\n\n{names[0]}", loc="left")
        block[0, 0].set_title("")
        for axis in block[:, 0]:
            axis.set_ylabel("accuracy")
    for axis in axes.flat:
        axis.tick_params(labelbottom=True)
    figure.supxlabel("support images of each class (shots)", fontsize=10)
    description = (
        f"Mean accuracy over seeds against the number of shots, a panel for each of {', '.join(names)}, a block for"
        f" each of {', '.join(tasks)}; bands are one standard deviation, the dotted line is {track.clip or 'absent'}."
    )
    save_figure(figure, path, "Few-shot CLIP: accuracy against shots", description)


def _draw_panel(axis: plt.Axes, table: pd.DataFrame, name: str, names: list[str], track: FewShotReport) -> None:
    for other in names:
        axis.plot(*_means(table, other), color=FAINT, linewidth=1, zorder=1)
    if track.clip:
        axis.plot(*_means(table, track.clip), color=GREY, linestyle=":", linewidth=1.4, zorder=2)
    shots, means = _means(table, name)
    shade, marker = choose_looks([name], track)[name]
    axis.plot(shots, means, color=shade, marker=marker, markersize=5, linewidth=2, zorder=3)
    rows = table[(table["method"] == name) & (table["metric"] == "accuracy_std")]
    spread = rows.set_index("shots")["value"].reindex(shots).fillna(0.0)
    if spread.any():
        axis.fill_between(shots, means - spread, means + spread, color=shade, alpha=0.2, linewidth=0, zorder=2)
    axis.set_xscale("log", base=2)
    axis.set_xticks(track.shots, track.shots)
    axis.minorticks_off()
    show_percent(axis.yaxis)


def _means(table: pd.DataFrame, name: str) -> tuple[pd.Index, pd.Series]:
    """Shots and mean accuracies of a method."""
    means = select_means(table[table["method"] == name]).set_index("shots")["value"].sort_index()
    return means.index, means


def _limits(table: pd.DataFrame) -> tuple[float, float]:
    """Room for all means and their bands."""
    means = select_means(table).set_index(["method", "shots"])["value"]
    spread = table[table["metric"] == "accuracy_std"].set_index(["method", "shots"])["value"].reindex(means.index)
    low, high = (means - spread.fillna(0.0)).min(), (means + spread.fillna(0.0)).max()
    room = 0.06 * max(high - low, 0.05)
    return max(low - room, 0.0), min(high + room, 1.0)
