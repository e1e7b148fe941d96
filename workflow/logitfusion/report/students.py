"""The distillation track in pictures: scores of students, their loss curves, and one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from logitfusion.evaluate.students import ALL_TASKS, members_of
from logitfusion.report.page import SCORES, interval_cell, score_cell, write_tables
from logitfusion.report.style import GREY, colour, save_figure, use_style

PARTS = {
    "sft": "SFT: cross-entropy, nats a response token",
    "uld": "ULD: sorted L1 of probabilities, a token",
    "gld": "GLD: sorted L1 of node features, a text",
}


def plot_students(table: pd.DataFrame, track: dict[str, Any], path: str | Path) -> None:
    """A panel a task: every method's score with its interval, its seeds as small dots; grey: models as they were."""
    use_style()
    scores = table[table["metric"].isin(SCORES)]
    tasks, names = list(dict.fromkeys(scores["task"])), list(members_of(track))
    columns = min(3, len(tasks))
    lines = -(-len(tasks) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.6 * columns + 1.6, (0.32 * len(names) + 1.1) * lines), squeeze=False, sharey=True
    )
    for axis, task in zip(axes.flat, tasks, strict=False):
        group = scores[scores["task"] == task]
        for position, name in enumerate(names):
            mine = group[group["method"] == name]
            row = mine[mine["ci_low"].notna()].iloc[0]
            shade = colour(position) if name in track["methods"] else GREY
            errors = [[row["value"] - row["ci_low"]], [row["ci_high"] - row["value"]]]
            axis.errorbar(row["value"], position, xerr=errors, fmt="o", color=shade, capsize=3, markersize=5)
            seeds = mine[mine["ci_low"].isna()]["value"]
            axis.scatter(seeds, [position + 0.22] * len(seeds), s=9, color=shade, alpha=0.7)
        first = group[group["ci_low"].notna()].iloc[0]
        axis.set_title(
            f"{task} (n = {first['n']}, {len(track['seeds'])} seed{'s'[: len(track['seeds']) > 1]})", fontsize=10
        )
        axis.set_xlabel(f"{first['metric'].replace('_', ' ')}, {first['confidence']:.0%} interval")
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.5, -0.5)
    for axis in list(axes.flat)[len(tasks) :]:
        axis.set_visible(False)
    save_figure(figure, path)


def plot_student_losses(curves: dict[str, pd.DataFrame], track: dict[str, Any], path: str | Path) -> None:
    """A panel for each part of the loss that any method has; one line a method, of its first seed."""
    use_style()
    shown = {name: curves[f"{name}.{track['seeds'][0]}"] for name in track["methods"]}
    parts = [part for part in PARTS if any(curve[part].any() for curve in shown.values())]
    figure, axes = plt.subplots(1, len(parts), figsize=(4.6 * len(parts), 3.6), squeeze=False)
    for axis, part in zip(axes[0], parts, strict=True):
        for position, (name, curve) in enumerate(shown.items()):
            if curve[part].any():
                axis.plot(curve["step"], curve[part], label=name, color=colour(position))
        axis.set_title(PARTS[part], fontsize=9)
        axis.set_xlabel("optimiser step")
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=7)
    save_figure(figure, path)


def write_students_summary(
    table: pd.DataFrame, track: dict[str, Any], html_path: str | Path, markdown_path: str | Path
) -> None:
    """Methods down, tasks across, then gains over the baseline and agreement with teachers."""
    tasks = list(dict.fromkeys(table["task"]))
    overall = ALL_TASKS if ALL_TASKS in tasks else tasks[0]
    rows = []
    for name in members_of(track):
        mine = table[table["method"] == name]
        cells = {"method": name if name in track["methods"] else f"{name} (as it was)"}
        for task in tasks:
            cells[f"mean of {task}" if task == ALL_TASKS else task] = score_cell(mine[mine["task"] == task])
        gain = mine[(mine["metric"] == "gain") & (mine["task"] == overall)]
        cells[f"gain over {track['baseline']}"] = "" if gain.empty else interval_cell(gain.iloc[0])
        for teacher in track["teachers"]:
            agreement = mine[mine["metric"] == f"agreement_{teacher}"]
            weights = agreement["n"].astype(float)
            share = (agreement["value"] * weights).sum() / weights.sum() if len(agreement) else None
            cells[f"answers as {teacher}"] = "" if share is None else f"{share:.2f}"
        rows.append(cells)
    first = table[table["ci_low"].notna()].iloc[0]
    counts = table[table["ci_low"].notna()].groupby("task", sort=False)["n"].first()
    note = (
        "Share of right answers with its interval; in brackets after it the share of texts without an answer of the"
        f" asked form, if any. n = {', '.join(f'{count} ({task})' for task, count in counts.items())};"
        f" {first['split']} split; {len(track['seeds'])} training seed(s): {', '.join(map(str, track['seeds']))};"
        f" {first['confidence']:.0%} bootstrap intervals over examples and seeds; gains are paired. Answers as a"
        " teacher: of the examples that this teacher answers in the asked form, the share with the same answer."
        f" Run {first['run']}, config {first['config']}, commit {first['commit']}."
    )
    write_tables(pd.DataFrame(rows).fillna(""), note, html_path, markdown_path)
