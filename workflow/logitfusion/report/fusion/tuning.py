"""Tuning on the validation split: likelihood against the anchor, one line a degree of trust."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from logitfusion.report.style import GREY, colour, make_axes, save_figure


@dataclass(frozen=True)
class TunedTask:
    """A method's candidates on one task, ``trust anchor log_likelihood``, and the trust and anchor chosen of them."""

    candidates: pd.DataFrame
    trust: float
    anchor: float


def plot_tuning(tunings: dict[str, dict[str, TunedTask]], path: str | Path) -> None:
    """One row a tuned method, one panel a task; the star is what was chosen.

    Args:
        tunings: method -> task -> its candidates.
    """
    tasks = list(dict.fromkeys(task for tuning in tunings.values() for task in tuning))
    lines, columns = max(len(tunings), 1), max(len(tasks), 1)
    figure, axes = make_axes(lines, columns, (3.6 * columns, 2.9 * lines))
    for line, (method, tuning) in zip(axes, tunings.items(), strict=False):
        for axis, task in zip(line, tasks, strict=False):
            if task in tuning:
                _draw(axis, tuning[task])
                axis.set_title(f"{method}: {task}", fontsize=9)
            else:
                axis.set_visible(False)
    if not tunings:
        axes[0, 0].set_axis_off()
        axes[0, 0].text(0, 0.5, "No method of this run is tuned.", color=GREY)
    save_figure(figure, path)


def _draw(axis: plt.Axes, tuned: TunedTask) -> None:
    candidates = tuned.candidates
    for position, (trust, rows) in enumerate(candidates.groupby("trust")):
        if len(rows) > 1:
            axis.plot(
                rows["anchor"], rows["log_likelihood"], marker=".", color=colour(position), label=f"trust {trust:g}"
            )
        else:
            axis.axhline(
                rows["log_likelihood"].iloc[0], color=colour(position), linestyle="--", label=f"trust {trust:g}"
            )
    best = candidates[(candidates["trust"] == tuned.trust) & (candidates["anchor"] == tuned.anchor)].iloc[0]
    axis.plot(best["anchor"], best["log_likelihood"], marker="*", markersize=13, color="black", linestyle="none")
    axis.set_xlabel("anchor (sum of the weights)", fontsize=8)
    axis.set_ylabel("log-likelihood of an answer, nats", fontsize=8)
    best_value = candidates["log_likelihood"].max()
    axis.set_ylim(best_value - 4, best_value + 0.3)
    axis.legend(fontsize=6)
