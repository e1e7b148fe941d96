"""One look for all plots: colour-blind-safe colours, plain axes, text that stays text, and marks that recur."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from logitfusion.files import whole

# Okabe and Ito's palette, distinct for every common kind of colour vision (its yellow is too pale for lines on white),
# then what is farthest from it in Tol's muted palette.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    *("#882255", "#999933", "#332288", "#44AA99", "#AA4499", "#661100", "#6699CC"),
)
GREY = "#777777"
FAINT = "#d0d0d0"
# The report shows a plot in its natural size where it has 900 px, else smaller: text of 10 pt is 13.3 px, and is never
# drawn smaller than 12.
WIDTH = 9.2  # inches at most
STYLE = {
    "figure.dpi": 110,
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "figure.titlesize": 11,
    "svg.hashsalt": "logitfusion",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "svg.fonttype": "none",
    "legend.frameon": False,
    "axes.prop_cycle": plt.cycler(color=COLOURS),
}


def colour(position: int) -> str:
    """The position-th colour, starting anew when they are used up."""
    return COLOURS[position % len(COLOURS)]


def assign_colours(names: Iterable[str]) -> dict[str, str]:
    """Name -> its colour, by its place: the same names in the same order have the same colours in the whole report."""
    return {name: colour(position) for position, name in enumerate(dict.fromkeys(names))}


def make_axes(
    lines: int, columns: int, size: tuple[float, float], **sharing: bool | str
) -> tuple[plt.Figure, np.ndarray]:
    """A figure of ``size`` (width and height in inches) with axes ``[lines, columns]``."""
    plt.rcParams.update(STYLE)
    return plt.subplots(lines, columns, figsize=size, squeeze=False, **sharing)


def make_panels(
    count: int, most: int, height: float, *, sharex: bool = False, sharey: bool = True
) -> tuple[plt.Figure, list[plt.Axes]]:
    """``count`` axes, each ``height`` inches high, at most ``most`` beside each other in the width of the report."""
    columns = min(most, count)
    lines = -(-count // columns)
    width = WIDTH if columns == most else min(WIDTH, 1.4 + (WIDTH - 1.4) / most * columns)
    figure, axes = make_axes(lines, columns, (width, height * lines), sharex=sharex, sharey=sharey)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, list(axes.flat[:count])


def draw_interval(
    axis: plt.Axes, row: pd.Series, height: float, shade: str, marker: str = "o", cap: float = 3, **look: Any
) -> None:
    """A row of the tidy table as a mark at its value with its interval."""
    errors = [[row["value"] - row["ci_low"]], [row["ci_high"] - row["value"]]]
    look = {"markersize": 5} | look
    axis.errorbar(row["value"], height, xerr=errors, fmt=marker, color=shade, capsize=cap, **look)


def name_lines(axis: plt.Axes, names: Sequence[str]) -> None:
    """Names down the vertical axis, the first on top."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)


def show_percent(axis: matplotlib.axis.Axis) -> None:
    """Shares as whole percents."""
    axis.set_major_formatter(lambda value, _: f"{value:.0%}")


def save_figure(
    figure: plt.Figure,
    path: str | Path,
    title: str,
    description: str,
    *,
    rect: tuple[float, float, float, float] | None = (0, 0, 1, 1),
) -> None:
    """Lay a figure out inside ``rect`` (shares of its size), write it as SVG, whole or not at all, and close it.

    Without ``rect`` it is laid out already.

    Args:
        title: its name for a screen reader.
        description: what it shows, in a sentence, for those who don't see it.
    """
    if rect is not None:
        figure.tight_layout(rect=rect)
    with whole(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
        drawn = temporary.read_text(encoding="utf-8")
        temporary.write_text(_describe(drawn, title, description), encoding="utf-8")
    plt.close(figure)


def _describe(drawn: str, title: str, description: str) -> str:
    """A drawing that is announced as one picture, by its title, with its description."""
    start, rest = drawn.split("<svg ", 1)
    attributes, content = rest.split(">", 1)
    label = html.escape(title)
    words = f"\n <title>{label}</title>\n <desc>{html.escape(description)}</desc>"
    return f'{start}<svg role="img" aria-label="{label}" {attributes}>{words}{content}'
