"""The experts' weights along generated texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from logitfusion.config.tracks import TracesReport
from logitfusion.report.style import GREY, colour, make_axes, save_figure


def plot_traces(judged: pd.DataFrame, track: TracesReport, path: str | Path) -> None:
    """One line an example, one column a steered method: bars are the weights at each token, colours the experts.

    Args:
        judged: the task's judged examples.
        track: the task, how many of its first examples are drawn, and the steered methods with their experts.
    """
    experts = track.experts
    methods = [method for method in experts if method in set(judged["method"])]
    ids = sorted(judged["id"].unique())[: track.examples]
    names = list(dict.fromkeys(name for method in methods for name in experts[method]))
    shape = (max(len(ids), 1), max(len(methods), 1))
    figure, axes = make_axes(*shape, (3.7 * shape[1] + 0.6, 1.75 * shape[0] + 0.9))
    if not methods:
        axes[0][0].text(0.5, 0.5, "no method steers this task", ha="center")
    for column, method in enumerate(methods):
        mine = judged[judged["method"] == method].set_index("id")
        for line, number in enumerate(ids):
            _draw(axes[line][column], mine.loc[number], experts[method], names)
        axes[0][column].set_title(f"{method}\n{axes[0][column].get_title()}", fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel("weight")
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour(position)) for position in range(len(names))]
    figure.suptitle(f"Weights along the first examples of {track.task}", fontsize=11)
    figure.legend(handles, names, loc="lower center", ncol=max(len(names), 1), title="expert")
    save_figure(figure, path, rect=(0, 0.09 / shape[0] + 0.03, 1, 1))


def _draw(axis: plt.Axes, row: pd.Series, experts: Sequence[str], names: list[str]) -> None:
    tokens = [_show(token) for token in row["tokens"]]
    for step, weights in enumerate(row["weights"]):
        bottom = 0.0
        for expert, weight in zip(experts, weights, strict=True):
            axis.bar(step, weight, bottom=bottom, color=colour(names.index(expert)), width=0.8)
            bottom += max(weight, 0.0)
    axis.axhline(1.0, color=GREY, linewidth=0.8, linestyle=":")
    axis.set_xticks(range(len(tokens)), tokens, fontsize=8, rotation=30, ha="right")
    axis.set_ylim(0, 2.1)
    axis.set_xlim(-0.6, max(len(tokens), 4) - 0.4)
    verdict = "right" if row["correct"] else "no answer" if row["format_failure"] else "wrong"
    axis.set_title(f"{verdict} (gold: {_show(str(row['gold']))})", fontsize=9)


def _show(token: str) -> str:
    """A token as a tick label: visible blanks, and no mathematics where a text has a dollar."""
    token = token.replace("\n", "\\n").replace(" ", "␣").replace("$", r"\$")
    return token if len(token) <= 14 else token[:13] + "…"
