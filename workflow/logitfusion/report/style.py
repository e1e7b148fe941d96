"""One look for all plots: colour-blind-safe colours, plain axes, text that stays text."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from logitfusion.files import whole

# Okabe and Ito's palette, distinct for every common kind of colour vision; its yellow is too pale for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#777777"


def use_style() -> None:
    """Set matplotlib's defaults for this project."""
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "axes.axisbelow": True,
            "svg.fonttype": "none",
            "legend.frameon": False,
            "axes.prop_cycle": plt.cycler(color=COLOURS),
        }
    )


def colour(position: int) -> str:
    """The position-th colour, starting anew when they are used up."""
    return COLOURS[position % len(COLOURS)]


def save_figure(
    figure: plt.Figure, path: str | Path, *, rect: tuple[float, float, float, float] = (0, 0, 1, 1)
) -> None:
    """Lay a figure out inside ``rect`` (shares of its size), write it as SVG, whole or not at all, and close it."""
    figure.tight_layout(rect=rect)
    with whole(path) as temporary:
        figure.savefig(temporary, format="svg")
    plt.close(figure)
