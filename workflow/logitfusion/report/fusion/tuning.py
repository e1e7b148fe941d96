"""Tuning on the validation split: likelihood against the anchor, a line a degree of trust; a gate and its rivals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from logitfusion.report.style import GREY, WIDTH, assign_colours, make_axes, save_figure


@dataclass(frozen=True)
class TunedTask:
    """A method's candidates on one task, ``trust anchor log_likelihood``, and the trust and anchor chosen of them."""

    candidates: pd.DataFrame
    trust: float
    anchor: float


@dataclass(frozen=True)
class GatedTasks:
    """How a gate and the simpler ways to steer do on the tasks that share one choice, and the way chosen of them.

    ``ways`` has ``way log_likelihood behind behind_error``, and ``metric`` where texts were decoded.
    """

    ways: pd.DataFrame
    chosen: str


Tuning = dict[str, TunedTask | GatedTasks]


def plot_tuning(tunings: dict[str, Tuning], path: str | Path) -> None:
    """One row a tuned method, one panel a task, or tasks that share a gate's choice; the star is what was chosen.

    Args:
        tunings: method -> task -> its candidates.
    """
    tasks = list(dict.fromkeys(task for tuning in tunings.values() for task in tuning))
    lines, columns = max(len(tunings), 1), max(len(tasks), 1)
    searched = [task for tuning in tunings.values() for task in tuning.values() if isinstance(task, TunedTask)]
    trusts = sorted({trust for task in searched for trust in task.candidates["trust"]})
    shades = assign_colours(f"{trust:g}" for trust in trusts)
    figure, axes = make_axes(lines, columns, (min(WIDTH, 1 + 3 * columns), 2.8 * lines + 0.5))
    for line, (method, tuning) in zip(axes, tunings.items(), strict=False):
        for axis, task in zip(line, tasks, strict=False):
            if task in tuning:
                _draw(axis, tuning[task], shades)
                axis.set_title(f"{method}: {task}")
            else:
                axis.set_visible(False)
    if not tunings:
        axes[0, 0].set_axis_off()
        axes[0, 0].text(0, 0.5, "No method of this run is tuned.", color=GREY)
    for axis in axes[:, 0]:
        axis.set_ylabel("log-likelihood, nats an answer")
    handles = [plt.Line2D([], [], color=shade, label=f"trust {trust}") for trust, shade in shades.items()]
    if handles:
        figure.legend(handles=handles, loc="lower center", ncol=min(len(handles), 6))
    description = (
        "Log-likelihood of the validation answers against the anchor, a line for each degree of trust, or by the large"
        " model alone, a fixed weight and a gate, a panel for each task and method"
        f" ({', '.join(tunings) or 'none'}); a star marks the choice."
    )
    room = 0.5 / figure.get_size_inches()[1]
    save_figure(figure, path, "Tuning on the validation split", description, rect=(0, room, 1, 1))


def _draw(axis: plt.Axes, task: TunedTask | GatedTasks, shades: dict[str, str]) -> None:
    if isinstance(task, GatedTasks):
        _draw_ways(axis, task)
    else:
        _draw_candidates(axis, task, shades)


def _draw_ways(axis: plt.Axes, gated: GatedTasks) -> None:
    """Held-out log-likelihoods; a bar is the standard error of the difference to the best."""
    ways = gated.ways
    axis.errorbar(ways["way"], ways["log_likelihood"], yerr=ways["behind_error"], fmt=".", color=GREY, capsize=3)
    chosen = ways[ways["way"] == gated.chosen].iloc[0]
    _mark(axis, gated.chosen, chosen["log_likelihood"])
    axis.set_xlim(-0.5, len(ways) - 0.5)
    if "metric" in ways:
        axis.set_xticks(range(len(ways)), [f"{row.way}\nmetric {row.metric:.2f}" for row in ways.itertuples()])


def _draw_candidates(axis: plt.Axes, tuned: TunedTask, shades: dict[str, str]) -> None:
    candidates = tuned.candidates
    for trust, rows in candidates.groupby("trust"):
        shade = shades[f"{trust:g}"]
        if len(rows) > 1:
            axis.plot(rows["anchor"], rows["log_likelihood"], marker=".", color=shade)
        else:
            axis.axhline(rows["log_likelihood"].iloc[0], color=shade, linestyle="--")
    best = candidates[(candidates["trust"] == tuned.trust) & (candidates["anchor"] == tuned.anchor)].iloc[0]
    _mark(axis, best["anchor"], best["log_likelihood"])
    best_value = candidates["log_likelihood"].max()
    axis.set_ylim(best_value - 4, best_value + 0.3)
    axis.set_xlabel("anchor (sum of the weights)")


def _mark(axis: plt.Axes, place: float | str, value: float) -> None:
    axis.plot(place, value, marker="*", markersize=13, color="black", linestyle="none")
