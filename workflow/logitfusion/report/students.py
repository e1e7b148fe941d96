"""The distillation track: scores of students, their loss curves, and one table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from logitfusion.config.tracks import StudentsTrack
from logitfusion.evaluate.names import say_metric
from logitfusion.evaluate.students import ALL_TASKS
from logitfusion.report.page import (
    compared,
    count_seeds,
    describe_scores,
    describe_sizes,
    describe_source,
    interval_cell,
    score_cell,
    write_tables,
)
from logitfusion.report.style import (
    FAINT,
    GREY,
    WIDTH,
    assign_colours,
    draw_interval,
    make_axes,
    make_panels,
    name_lines,
    save_figure,
)

PARTS = {
    "sft": "SFT: cross-entropy,\nnats a response token",
    "uld": "ULD: sorted L1 of\nprobabilities, a token",
    "gld": "GLD: sorted L1 of\nnode features, a text",
    "kl": "KL: divergence,\nnats a response token",
    "hybrid": "Hybrid: divergence and\nsorted L1, a token",
}


def plot_students(table: pd.DataFrame, track: StudentsTrack, path: str | Path) -> None:
    """A panel a task: every method's score with its interval, seeds as small dots; grey: models it did not train."""
    scores = compared(table)
    tasks, names = list(dict.fromkeys(scores["task"])), list(track.trials)
    shades = assign_colours(track.methods)
    figure, axes = make_panels(len(tasks), 3, 0.34 * len(names) + 1.3)
    for axis, task in zip(axes, tasks, strict=True):
        means = scores[scores["task"] == task].set_index("method")
        first = means.iloc[0]
        seeds = table[(table["task"] == task) & (table["metric"] == first["metric"]) & table["seed"].notna()]
        for position, name in enumerate(names):
            shade = shades.get(name, GREY)
            draw_interval(axis, means.loc[name], position, shade)
            dots = seeds[seeds["method"] == name]["value"]
            axis.scatter(dots, [position + 0.22] * len(dots), s=9, color=shade, alpha=0.7)
        axis.set_title(f"{task}\n(n = {first['n']}, {count_seeds(track.seeds)})")
        axis.set_xlabel(f"{say_metric(first['metric'])}, {first['confidence']:.0%} interval")
        name_lines(axis, names)
    description = (
        f"A panel for each of {', '.join(tasks)}: a dot for every method at its score with its interval, small dots for"
        " seeds; grey are the student before training and the teachers. The numbers are in the summary table."
    )
    save_figure(figure, path, "Distillation: scores of students by task", description)


def plot_student_losses(curves: dict[str, pd.DataFrame], track: StudentsTrack, path: str | Path) -> None:
    """A row a method, of its first seed, and a column for each part of the loss that any method has.

    Args:
        curves: ``<method>.<seed>`` -> its curve.
    """
    shown = {name: curves[f"{name}.{track.seeds[0]}"] for name in track.methods}
    parts = [part for part in PARTS if any(curve[part].any() for curve in shown.values())]
    shades = assign_colours(track.methods)
    figure, axes = make_axes(len(shown), len(parts), (WIDTH, 1.7 * len(shown) + 0.8), sharex=True, sharey="col")
    for line, (name, curve) in zip(axes, shown.items(), strict=True):
        for axis, part in zip(line, parts, strict=True):
            if curve[part].any():
                for other in shown.values():
                    if other[part].any():
                        axis.plot(other["step"], other[part], color=FAINT, linewidth=1, zorder=1)
                axis.plot(curve["step"], curve[part], color=shades[name], zorder=2)
            else:
                axis.text(0.5, 0.5, "not in this loss", color=GREY, ha="center", transform=axis.transAxes)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for axis, part in zip(axes[0], parts, strict=True):
        axis.set_title(PARTS[part])
        axis.set_ylim(0, 1.05 * max(curve[part].max() for curve in shown.values()))
    for axis in axes[-1]:
        axis.set_xlabel("optimiser step")
    description = (
        f"Parts of the training loss against optimiser steps: a row for each of {', '.join(shown)}, of seed"
        f" {track.seeds[0]}; the other methods in light grey."
    )
    save_figure(figure, path, "Loss curves of students", description)


def write_students_summary(
    table: pd.DataFrame, track: StudentsTrack, html_path: str | Path, markdown_path: str | Path
) -> None:
    """Methods down, tasks across, then gains over the baseline and agreement with teachers."""
    tasks = list(dict.fromkeys(table["task"]))
    overall = ALL_TASKS if ALL_TASKS in tasks else tasks[0]
    rows = []
    for name in track.trials:
        mine = table[table["method"] == name]
        cells = {"method": _label(name, track)}
        for task in tasks:
            cells[f"mean of {task}" if task == ALL_TASKS else task] = score_cell(mine[mine["task"] == task])
        gain = mine[(mine["metric"] == "gain") & (mine["task"] == overall)]
        if track.baseline is not None:
            cells[f"gain over {track.baseline}"] = "" if gain.empty else interval_cell(gain.iloc[0])
        for teacher in track.teachers:
            agreement = mine[mine["metric"] == f"agreement_{teacher}"]
            weights = agreement["n"].astype(float)
            share = (agreement["value"] * weights).sum() / weights.sum() if len(agreement) else None
            cells[f"answers as {teacher}"] = "" if share is None else f"{share:.2f}"
        rows.append(cells)
    first = table.iloc[0]
    note = (
        f"{describe_scores(table)} with its interval; in brackets after it the share of texts without an answer of the"
        f" asked form, if any. {describe_sizes(table)}; {first['split']} split; {len(track.seeds)} training seed(s):"
        f" {', '.join(map(str, track.seeds))}; {first['confidence']:.0%} bootstrap intervals over examples and seeds;"
        " gains are paired. Answers as a teacher: of the examples that this teacher answers in the asked form, the"
        f" share with the same answer. Run {describe_source(table)}."
    )
    write_tables("Distillation: students and their teachers", rows, note, html_path, markdown_path)


def _label(name: str, track: StudentsTrack) -> str:
    """A row's name; models that no method of the track has trained are marked."""
    if name in track.methods:
        return name
    return f"{name} (before training)" if name == track.student else f"{name} (teacher)"
