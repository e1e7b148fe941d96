"""Scores of all methods on all tasks: a plot and a table."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from logitfusion.evaluate.table import SEEN
from logitfusion.report.page import SCORES, interval_cell, score_cell, write_tables
from logitfusion.report.style import GREY, colour, save_figure, use_style


def plot_methods(table: pd.DataFrame, methods: list[str], base: str, ceiling: str, path: str | Path) -> None:
    """One panel a task: every method's score with its interval; lines mark the large model and the ceiling."""
    use_style()
    scores = table[table["metric"].isin(SCORES)]
    tasks = list(dict.fromkeys(scores["task"]))
    columns = min(3, len(tasks))
    lines = -(-len(tasks) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.6 * columns + 1.2, (0.32 * len(methods) + 1.1) * lines), squeeze=False, sharey=True
    )
    for axis, task in zip(axes.flat, tasks, strict=False):
        group = scores[scores["task"] == task].set_index("method")
        for name, style in ((base, ":"), (ceiling, "--")):
            if name in group.index:
                axis.axvline(group.loc[name, "value"], color=GREY, linestyle=style, linewidth=1, zorder=0)
        for position, method in enumerate(methods):
            if method not in group.index:
                continue
            row = group.loc[method]
            shade = GREY if method in (base, ceiling) else colour(position)
            errors = [[row["value"] - row["ci_low"]], [row["ci_high"] - row["value"]]]
            axis.errorbar(row["value"], position, xerr=errors, fmt="o", color=shade, capsize=3, markersize=5)
        confidence = group["confidence"].iloc[0]
        axis.set_title(f"{task} (n = {group['n'].iloc[0]})", fontsize=10)
        axis.set_xlabel(f"{group['metric'].iloc[0].replace('_', ' ')}, {confidence:.0%} interval")
        axis.set_xlim(-0.02, 1.02)
        axis.set_yticks(range(len(methods)), methods)
        axis.set_ylim(len(methods) - 0.5, -0.5)
    for axis in list(axes.flat)[len(tasks) :]:
        axis.set_visible(False)
    save_figure(figure, path)


def write_summary(
    table: pd.DataFrame, methods: list[str], seen: list[str], html_path: str | Path, markdown_path: str | Path
) -> None:
    """The results as one table, for the report (HTML) and for a README (Markdown)."""
    wide = _widen(table, methods, seen)
    first = table.iloc[0]
    examples = table[table["metric"].isin(SCORES)].groupby("task", sort=False)["n"].first()
    note = (
        "Share of right answers with its interval; in brackets after it the share of texts without an answer of the"
        f" asked form, if any. n = {', '.join(f'{count} ({task})' for task, count in examples.items())};"
        f" {first['split']} split; training seed {first['seed']}; {first['confidence']:.0%} bootstrap intervals over"
        f" examples; run {first['run']}, config {first['config']}, commit {first['commit']}."
    )
    write_tables(wide, note, html_path, markdown_path)


def _widen(table: pd.DataFrame, methods: list[str], seen: list[str]) -> pd.DataFrame:
    """Methods down, tasks across, then what they come to over the tasks that experts were trained on."""
    tasks = [task for task in dict.fromkeys(table["task"]) if task != SEEN]
    rows = []
    for method in methods:
        mine = table[table["method"] == method]
        if mine.empty:
            continue
        cells = {"method": method}
        for task in tasks:
            cells[task if task in seen else f"{task} (unseen)"] = score_cell(mine[mine["task"] == task])
        if SEEN in set(table["task"]):
            cells[f"mean of {SEEN}"] = score_cell(mine[mine["task"] == SEEN])
            closure = mine[(mine["metric"] == "gap_closure") & (mine["task"] == SEEN)]
            cells["gap closure of it"] = "" if closure.empty else interval_cell(closure.iloc[0])
        speed = mine[mine["metric"] == "tokens_per_second"]["value"]
        cells["tokens/s"] = "" if speed.empty else f"{speed.mean():.0f}"
        rows.append(cells)
    return pd.DataFrame(rows).fillna("")
