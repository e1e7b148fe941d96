"""The fusion track as one table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from logitfusion.config.tracks import FusionReport
from logitfusion.evaluate.fusion import SEEN
from logitfusion.report.page import describe_sizes, describe_source, interval_cell, score_cell, write_tables


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
            cells["gap closure of it"] = "" if closure.empty else interval_cell(closure.iloc[0])
        speed = mine[mine["metric"] == "tokens_per_second"]["value"]
        cells["tokens/s"] = "" if speed.empty else f"{speed.mean():.0f}"
        rows.append(cells)
    first = table.iloc[0]
    note = (
        "Share of right answers with its interval; in brackets after it the share of texts without an answer of the"
        f" asked form, if any. {describe_sizes(table)}; {first['split']} split; training seed {first['seed']};"
        f" {first['confidence']:.0%} bootstrap intervals over examples; run {describe_source(table)}."
    )
    write_tables(rows, note, html_path, markdown_path)
