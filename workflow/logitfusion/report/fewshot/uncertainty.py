"""AMU's uncertainty factor against correctness."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from logitfusion.config.tracks import FewShotReport
from logitfusion.evaluate.intervals import wilson_interval
from logitfusion.report.fewshot.shared import LOOKS, Predictions, each_set, name_set, name_shots
from logitfusion.report.style import FAINT, WIDTH, make_axes, save_figure, show_percent


def plot_uncertainty(predictions: dict[str, Predictions], track: FewShotReport, path: str | Path) -> None:
    """A row a test set: how often CLIP (left) and the shown method (right) are right, in tenths by AMU's factor.

    What the other panel has is drawn in grey.
    """
    sets = list(each_set(track))
    figure, axes = make_axes(len(sets), 2, (WIDTH, 3.4 * len(sets)), sharex="row", sharey=True)
    for line, (origin, task) in zip(axes, sets, strict=True):
        answers, images = predictions[origin].select(task, track)
        images = images.set_index("id")
        curves = {
            "CLIP alone": images["clip_answer"].eq(images["label"]),
            f"{track.shown}, {name_shots(track.shots[-1])}": answers.groupby("id")["correct"].mean(),
        }
        binned = {name: _bin(images["factor"], correct.reindex(images.index)) for name, correct in curves.items()}
        for position, (axis, (name, found)) in enumerate(zip(line, binned.items(), strict=True)):
            for other in binned.values():
                axis.plot(range(len(other[0])), other[1], color=FAINT, zorder=1)
            _draw(axis, *found, *LOOKS[position])
            axis.set_title(f"{name_set(task, track)} (n = {len(images)}): {name}")
        span = f"{images['factor'].min():.2f} to {images['factor'].max():.2f}"
        relative = f"{images['factor_classes'].min():.2f} to {images['factor_classes'].max():.2f}"
        line[0].set_xlabel(f"u is {span} with the published reference")
        line[1].set_xlabel(f"and {relative} with that of C classes")
        line[0].set_ylabel("share right, 95% interval")
    figure.supxlabel("mean uncertainty factor u in tenths of the images (to the right CLIP is unsure)", fontsize=10)
    description = (
        f"How often CLIP alone and {track.shown} are right on {', '.join(task for _, task in sets)}, in ten groups of"
        " images by the uncertainty factor, with Wilson intervals."
    )
    save_figure(figure, path, "Uncertainty against correctness", description)


def _draw(
    axis: plt.Axes, centres: list[float], shares: np.ndarray, low: np.ndarray, high: np.ndarray, shade: str, mark: str
) -> None:
    places = np.arange(len(centres))
    axis.errorbar(
        places, shares, yerr=[shares - low, high - shares], fmt=f"{mark}-", color=shade, capsize=3, zorder=2
    )  # fmt: skip
    shown = places[:: 1 if len(places) <= 5 else 3]
    axis.set_xticks(shown, [f"{centres[place]:.2f}" for place in shown])
    show_percent(axis.yaxis)
    axis.set_ylim(-0.02, 1.02)


def _bin(
    factor: pd.Series, correct: pd.Series, bins: int = 10
) -> tuple[list[float], np.ndarray, np.ndarray, np.ndarray]:
    """Mean factor, share right and its Wilson interval, in bins of equally many images."""
    order = factor.sort_values(kind="stable").index
    parts = [part for part in np.array_split(np.asarray(order, dtype=object), min(bins, len(order))) if len(part)]
    centres = [float(factor.loc[part].mean()) for part in parts]
    shares = np.array([float(correct.loc[part].mean()) for part in parts])
    counts = [len(part) for part in parts]
    low, high = np.array([wilson_interval(share * n, n) for share, n in zip(shares, counts, strict=True)]).T
    return centres, shares, np.minimum(low, shares), np.maximum(high, shares)
