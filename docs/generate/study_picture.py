"""The picture of the study: how far each way of steering is from the best fixed weight, task by task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from logitfusion.report.style import COLOURS, GREY, draw_interval, make_panels, name_lines, save_figure

RIVAL = "fixed"
# Of the fusion track; those that a table lacks are left out.
METHODS = ("large", "dynamic", "gate", "multi_one_hot", "multi_judged", "multi_gate")


def draw(compared: Mapping[str, pd.DataFrame], path: Path) -> None:
    """One panel a task, averages last: differences to ``RIVAL`` with intervals; nothing where fusion was not run."""
    if "fusion" not in compared:
        return
    table = compared["fusion"]
    table = table[(table["rival"] == RIVAL) & table["method"].isin(METHODS)]
    tasks = list(dict.fromkeys(table["task"]))
    figure, axes = make_panels(len(tasks), 3, 1.9, sharex=True)
    methods = [method for method in METHODS if method in set(table["method"])]
    for axis, task in zip(axes, tasks, strict=True):
        rows = table[table["task"] == task]
        _draw_task(axis, rows.set_index("method"), methods)
        axis.set_title(f"{task.replace('_', ' ')}, n = {rows['n'].max()}")
    figure.supxlabel("score less that of the best fixed weight, 95% intervals", fontsize=12)
    save_figure(
        figure, path, "Ways of steering less the best fixed weight",
        "Differences of scores with intervals over examples and trainings, task by task; 0 is the best fixed weight.",
    )  # fmt: skip


def _draw_task(axis: plt.Axes, table: pd.DataFrame, methods: list[str]) -> None:
    axis.axvline(0, color=GREY, linestyle=":", linewidth=1.5, zorder=0)
    shown = table.rename(columns={"difference": "value", "low": "ci_low", "high": "ci_high"})
    for place, method in enumerate(methods):
        if method in shown.index:
            draw_interval(axis, shown.loc[method], place, COLOURS[0] if "gate" in method else GREY)
    name_lines(axis, methods)
