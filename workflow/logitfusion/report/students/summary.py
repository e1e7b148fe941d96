"""The distillation track as one table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from logitfusion.config.tracks import StudentsTrack
from logitfusion.evaluate.students import ALL_TASKS
from logitfusion.report.page import describe_sizes, describe_source, interval_cell, score_cell, write_tables


def write_students_summary(
    table: pd.DataFrame, track: StudentsTrack, html_path: str | Path, markdown_path: str | Path
) -> None:
    """Methods down, tasks across, then gains over the baseline and agreement with teachers."""
    tasks = list(dict.fromkeys(table["task"]))
    overall = ALL_TASKS if ALL_TASKS in tasks else tasks[0]
    rows = []
    for name in track.trials:
        mine = table[table["method"] == name]
        cells = {"method": name if name in track.methods else f"{name} (untrained)"}
        for task in tasks:
            cells[f"mean of {task}" if task == ALL_TASKS else task] = score_cell(mine[mine["task"] == task])
        gain = mine[(mine["metric"] == "gain") & (mine["task"] == overall)]
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
