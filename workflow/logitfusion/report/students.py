"""The distillation track: scores of students, their loss curves, and one table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from logitfusion.config.tracks import StudentsTrack
from logitfusion.evaluate.students import ALL_TASKS
from logitfusion.report.page import (
    SCORES,
    count_seeds,
    describe_sizes,
    describe_source,
    interval_cell,
    score_cell,
    write_tables,
)
from logitfusion.report.style import GREY, colour, draw_interval, make_axes, make_panels, name_lines, save_figure

PARTS = {
    "sft": "SFT: cross-entropy, nats a response token",
    "uld": "ULD: sorted L1 of probabilities, a token",
    "gld": "GLD: sorted L1 of node features, a text",
}


def plot_students(table: pd.DataFrame, track: StudentsTrack, path: str | Path) -> None:
    """A panel a task: every method's score with its interval, seeds as small dots; grey: models it did not train."""
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


def plot_student_losses(curves: dict[str, pd.DataFrame], track: StudentsTrack, path: str | Path) -> None:
    """A panel for each part of the loss that any method has; one line a method, of its first seed.

    Args:
        curves: ``<method>.<seed>`` -> its curve.
    """
    shown = {name: curves[f"{name}.{track.seeds[0]}"] for name in track.methods}
    parts = [part for part in PARTS if any(curve[part].any() for curve in shown.values())]
    figure, axes = make_axes(1, len(parts), (4.6 * len(parts), 3.6))
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
        "Share of right answers with its interval; in brackets after it the share of texts without an answer of the"
        f" asked form, if any. {describe_sizes(table)}; {first['split']} split; {len(track.seeds)} training seed(s):"
        f" {', '.join(map(str, track.seeds))}; {first['confidence']:.0%} bootstrap intervals over examples and seeds;"
        " gains are paired. Answers as a teacher: of the examples that this teacher answers in the asked form, the"
        f" share with the same answer. Run {describe_source(table)}."
    )
    write_tables(rows, note, html_path, markdown_path)


def _label(name: str, track: StudentsTrack) -> str:
    """A row's name; models that no method of the track has trained are marked."""
    if name in track.methods:
        return name
    return f"{name} (before training)" if name == track.student else f"{name} (teacher)"
