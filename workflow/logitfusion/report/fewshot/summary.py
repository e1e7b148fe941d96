"""The few-shot track as one table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from logitfusion.config.tracks import FewShotReport
from logitfusion.report.fewshot.shared import name_set, name_shots, select_means
from logitfusion.report.page import count_seeds, describe_sizes, describe_source, interval_cell, write_tables


def write_fewshot_summary(
    table: pd.DataFrame, track: FewShotReport, html_path: str | Path, markdown_path: str | Path
) -> None:
    """Methods down; accuracy at each number of shots, mean ± std over seeds, then gains over the baselines."""
    rows = [
        {"test set": name_set(task, track), "method": name}
        | _make_cells(table[(table["task"] == task) & (table["method"] == name)], track)
        for task in dict.fromkeys(table["task"])
        for name in track.methods
    ]
    uses = "; ".join(f"{name}: {text}" for name, text in track.auxiliaries.items()) or "none"
    note = (
        f"Accuracy in %, mean ± standard deviation over {count_seeds(track.seeds)}"
        f" ({', '.join(map(str, track.seeds))}) at each number of shots; gains at {track.shots[-1]} shots are paired,"
        f" with {table.iloc[0]['confidence']:.0%} bootstrap intervals over test images and seeds."
        f" {describe_sizes(table)}; last step, one configuration for all sets and shots or cross-validation on the"
        " support set; test images are read by the evaluation alone. ECE: expected calibration error of the plain"
        " softmax. Oracle: the best test epoch in place of the last, what choosing on test data would have reported."
        f" CLIP: {track.encoder}. Extra pre-training of the auxiliary, which CLIP's own rows do not use: {uses};"
        f" methods that use it: {', '.join(track.assisted) or 'none'}. Run {describe_source(table)}."
    )
    write_tables("Few-shot CLIP: accuracy and gains", rows, note, html_path, markdown_path)


def _make_cells(rows: pd.DataFrame, track: FewShotReport) -> dict[str, str]:
    """The cells of one method on one test set."""
    means = select_means(rows).set_index("shots")["value"]
    spread = rows[rows["metric"] == "accuracy_std"].set_index("shots")["value"]
    cells = {}
    for shots in track.shots:
        around = f" ± {100 * spread[shots]:.1f}" if shots in spread.index else ""
        cells[name_shots(shots)] = f"{100 * means[shots]:.1f}{around}"
    last = rows[(rows["shots"] == track.shots[-1]) & rows["seed"].isna()].set_index("metric")
    for other in track.baselines:
        gain = f"gain_over_{other}"
        percents = last[["value", "ci_low", "ci_high"]] * 100
        cells[f"gain over {other}"] = interval_cell(percents.loc[gain], digits=1) if gain in last.index else ""
    if track.oracle:
        chosen = "oracle_accuracy" in last.index
        cells["oracle"] = f"{100 * last.loc['oracle_accuracy', 'value']:.1f}" if chosen else ""
    cells["ECE"] = f"{last.loc['calibration_error', 'value']:.2f}"
    cells["s a fit"] = f"{last.loc['seconds_of_fitting', 'value']:.2f}"
    return cells
