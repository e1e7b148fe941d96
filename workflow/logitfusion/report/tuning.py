"""What tuning saw on the validation split: likelihood against the anchor, one line a degree of trust."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from logitfusion.report.style import GREY, colour, save_figure, use_style


def plot_tuning(tunings: dict[str, dict[str, Any]], path: str | Path) -> None:
    """One row a tuned method, one panel a task; the star is what was chosen.

    Args:
        tunings: method -> what the stage ``tune`` wrote.
    """
    use_style()
    tasks = list(dict.fromkeys(task for tuning in tunings.values() for task in tuning["candidates"]))
    columns = max(len(tasks), 1)
    figure, axes = plt.subplots(
        max(len(tunings), 1), columns, figsize=(3.6 * columns, 2.9 * max(len(tunings), 1)), squeeze=False
    )
    for line, (method, tuning) in zip(axes, tunings.items(), strict=False):
        for axis, task in zip(line, tasks, strict=False):
            if task not in tuning["candidates"]:
                axis.set_visible(False)
                continue
            chosen = tuning["chosen"].get(task) or tuning["chosen"]["*"]
            _draw(axis, pd.DataFrame(tuning["candidates"][task]), chosen)
            axis.set_title(f"{method}: {task}", fontsize=9)
    if not tunings:
        axes[0, 0].set_axis_off()
        axes[0, 0].text(0, 0.5, "No method of this run is tuned.", color=GREY)
    save_figure(figure, path)


def _draw(axis: plt.Axes, candidates: pd.DataFrame, chosen: dict[str, float]) -> None:
    for position, (trust, rows) in enumerate(candidates.groupby("trust")):
        if len(rows) > 1:
            axis.plot(
                rows["anchor"], rows["log_likelihood"], marker=".", color=colour(position), label=f"trust {trust:g}"
            )
        else:
            axis.axhline(
                rows["log_likelihood"].iloc[0], color=colour(position), linestyle="--", label=f"trust {trust:g}"
            )
    same = (candidates["trust"] == chosen["trust"]) & (candidates["anchor"] == chosen["anchor"])
    best = candidates[same].iloc[0]
    axis.plot(best["anchor"], best["log_likelihood"], marker="*", markersize=13, color="black", linestyle="none")
    axis.set_xlabel("anchor (sum of the weights)", fontsize=8)
    axis.set_ylabel("log-likelihood of an answer, nats", fontsize=8)
    best_value = candidates["log_likelihood"].max()
    axis.set_ylim(best_value - 4, best_value + 0.3)
    axis.legend(fontsize=6)
