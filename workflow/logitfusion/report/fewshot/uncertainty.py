"""AMU's uncertainty factor against correctness."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from logitfusion.config.tracks import FewShotReport
from logitfusion.evaluate.intervals import wilson_interval
from logitfusion.report.fewshot.shared import Predictions, each_set, name_set
from logitfusion.report.style import colour, make_panels, save_figure, show_percent


def plot_uncertainty(predictions: dict[str, Predictions], track: FewShotReport, path: str | Path) -> None:
    """A panel a test set: how often CLIP and the shown method are right, in tenths by AMU's uncertainty factor."""
    panels = list(each_set(track))
    figure, axes = make_panels(len(panels), 2, (5.6, 3.7))
    for axis, (origin, task) in zip(axes, panels, strict=True):
        answers, images = predictions[origin].select(task, track)
        images = images.set_index("id")
        right = {
            "CLIP alone": images["clip_answer"].eq(images["label"]),
            f"{track.shown}, {track.shots[-1]} shots": answers.groupby("id")["correct"].mean(),
        }
        for position, (label, correct) in enumerate(right.items()):
            centres, shares, low, high = _bin(images["factor"], correct.reindex(images.index))
            place = np.arange(len(centres)) + 0.14 * position
            axis.errorbar(
                place, shares, yerr=[shares - low, high - shares], fmt="os"[position] + "-", color=colour(position),
                capsize=3, label=label,
            )  # fmt: skip
        axis.set_xticks(range(len(centres)), [f"{centre:.2f}" for centre in centres], fontsize=8)
        spans = [f"{images[name].min():.2f} to {images[name].max():.2f}" for name in ("factor", "factor_classes")]
        spans = f"u: {spans[0]} with the published reference, {spans[1]} relative to C"
        axis.set_title(f"{name_set(task, track)} (n = {len(images)})\n{spans}", fontsize=8.5)
        axis.set_xlabel("tenths of the images, by mean uncertainty factor u (right: CLIP is unsure)", fontsize=9)
        show_percent(axis.yaxis)
        axis.set_ylim(-0.02, 1.02)
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel("share right, 95% interval")
    axes[0].legend(fontsize=8)
    save_figure(figure, path)


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
