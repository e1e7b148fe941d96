"""Scores of all fusion methods on all tasks: a plot and a table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from logitfusion.config.tracks import FusionReport
from logitfusion.evaluate.fusion import SEEN
from logitfusion.evaluate.names import say_metric
from logitfusion.report.page import (
    compared,
    describe_scores,
    describe_sizes,
    describe_source,
    interval_cell,
    score_cell,
    write_tables,
)
from logitfusion.report.style import GREY, assign_colours, draw_interval, make_panels, name_lines, save_figure


def plot_methods(table: pd.DataFrame, track: FusionReport, path: str | Path) -> None:
    """One panel a task: every method's score with its interval; lines mark the large model and the ceiling."""
    scores = compared(table)
    tasks = list(dict.fromkeys(scores["task"]))
    shades = assign_colours(track.methods) | dict.fromkeys((track.base, track.ceiling), GREY)
    figure, axes = make_panels(len(tasks), 3, 0.32 * len(track.methods) + 1.1)
    for axis, task in zip(axes, tasks, strict=True):
        group = scores[scores["task"] == task].set_index("method")
        for name, style in ((track.base, ":"), (track.ceiling, "--")):
            if name in group.index:
                axis.axvline(group.loc[name, "value"], color=GREY, linestyle=style, linewidth=1, zorder=0)
        for position, method in enumerate(track.methods):
            if method in group.index:
                draw_interval(axis, group.loc[method], position, shades[method])
        first = group.iloc[0]
        axis.set_title(f"{task} (n = {first['n']})")
        axis.set_xlabel(f"{say_metric(first['metric'])}, {first['confidence']:.0%} interval")
        if group["value"].between(0, 1).all():
            axis.set_xlim(-0.02, 1.02)
        name_lines(axis, track.methods)
    description = (
        f"A panel for each of {', '.join(tasks)}: a dot for every method at its score with its interval; dotted line:"
        f" {track.base}, dashed line: {track.ceiling}. The numbers are in the summary table."
    )
    save_figure(figure, path, "Fusion: scores of methods by task", description)


def write_fusion_summary(
    table: pd.DataFrame, track: FusionReport, html_path: str | Path, markdown_path: str | Path
) -> None:
    """Methods down, tasks across, then what they come to over the tasks that experts were trained on."""
    tasks = [task for task in dict.fromkeys(table["task"]) if task != SEEN]
    rows = []
    for method in track.methods:
        mine = table[table["method"] == method]
        if mine.empty:
            continue
        cells = {"method": method}
        for task in tasks:
            cells[task if task in track.seen else f"{task} (unseen)"] = score_cell(mine[mine["task"] == task])
        if SEEN in set(table["task"]):
            cells[f"mean of {SEEN}"] = score_cell(mine[mine["task"] == SEEN])
            closure = mine[(mine["metric"] == "gap_closure") & (mine["task"] == SEEN)]
            if None not in (track.base, track.ceiling):
                cells["gap closure of it"] = "" if closure.empty else interval_cell(closure.iloc[0])
        speed = mine[mine["metric"] == "tokens_per_second"]["value"]
        cells["tokens/s"] = "" if speed.empty else f"{speed.mean():.0f}"
        rows.append(cells)
    first = table.iloc[0]
    note = (
        f"{describe_scores(table)} with its interval; in brackets after it the share of texts without an answer of the"
        f" asked form, if any. {describe_sizes(table)}; {first['split']} split; training seed {first['seed']};"
        f" {first['confidence']:.0%} bootstrap intervals over examples; run {describe_source(table)}."
    )
    write_tables("Fusion: every method on every task", rows, note, html_path, markdown_path)
