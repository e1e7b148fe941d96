"""The experts' weights along generated texts."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from logitfusion.config.tracks import TracesReport
from logitfusion.report.style import GREY, WIDTH, assign_colours, make_axes, save_figure

COLUMNS = 3
MOST_TOKENS = 16


def plot_traces(judged: pd.DataFrame, track: TracesReport, path: str | Path) -> None:
    """A block an example, a panel a steered method: tokens downwards, bars are the weights, colours the experts.

    Args:
        judged: the task's judged examples.
        track: the task, how many of its first examples are drawn, and the steered methods with their experts.
    """
    methods = [method for method in track.experts if method in set(judged["method"])]
    ids = sorted(judged["id"].unique())[: track.examples] if methods else []
    lines = -(-len(methods) // COLUMNS)
    shades = assign_colours(track.steering)
    steered = judged[judged["method"].isin(methods) & judged["id"].isin(ids)]
    tokens = {number: _longest(steered[steered["id"] == number]) for number in ids}
    heights = [0.24 * tokens[number] + (0.8 if line else 1.5) for number in ids for line in range(lines)]
    size = (WIDTH, sum(heights) + 0.6 if heights else 1.5)
    ratios = {"height_ratios": heights} if heights else None
    figure, axes = make_axes(max(len(heights), 1), COLUMNS, size, gridspec_kw=ratios)
    for axis in axes.flat:
        axis.set_visible(False)
    for place, number in enumerate(ids):
        block = axes[lines * place : lines * (place + 1)]
        for axis, method in zip(block.flat, methods, strict=False):
            row = steered[(steered["method"] == method) & (steered["id"] == number)].iloc[0]
            _draw(axis, row, track.experts[method], shades, tokens[number])
        prompt = textwrap.fill(_show(str(row["prompt"]), 160), 100)
        title = f"Example {number}: {prompt}\nright answer: {_show(str(row['gold']), 60)}"
        block[0, 0].set_title(f"{title}\n\n{block[0, 0].get_title('left')}", loc="left")
    if not methods:
        figure.text(0.5, 0.5, "No method steers this task.", ha="center", color=GREY)
    names = list(dict.fromkeys(name for method in methods for name in track.experts[method]))
    handles = [plt.Rectangle((0, 0), 1, 1, color=shades[name]) for name in names]
    figure.legend(handles, names, loc="lower center", ncol=6, title="weights of the experts; dotted: weight 1")
    description = (
        f"Weights of {', '.join(names) or 'no expert'} at the tokens of the first {len(ids)} examples of {track.task},"
        f" a panel for each of {', '.join(methods) or 'no method'}; all examples are in the page Start here."
    )
    save_figure(figure, path, f"Weights along the text: {track.task}", description, rect=(0, 0.6 / size[1], 1, 1))


def _longest(rows: pd.DataFrame) -> int:
    return min(max((len(tokens) for tokens in rows["tokens"]), default=1), MOST_TOKENS) or 1


def _draw(axis: plt.Axes, row: pd.Series, experts: Sequence[str], shades: dict[str, str], tokens: int) -> None:
    axis.set_visible(True)
    for step, weights in enumerate(row["weights"][:tokens]):
        left = 0.0
        for expert, weight in zip(experts, weights, strict=True):
            axis.barh(step, weight, left=left, color=shades[expert], height=0.75)
            left += max(weight, 0.0)
    axis.axvline(1.0, color=GREY, linewidth=0.8, linestyle=":")
    axis.set_yticks(range(min(len(row["tokens"]), tokens)), [_show(token, 14, "␣") for token in row["tokens"][:tokens]])
    axis.set_ylim(tokens - 0.4, -0.6)
    axis.set_xlim(0, 2.1)
    verdict = "right" if row["correct"] else "no answer" if row["format_failure"] else "wrong"
    more = len(row["tokens"]) - tokens
    axis.set_title(f"{row['method']}: {verdict}" + (f" ({more} more tokens)" if more > 0 else ""), loc="left")


def _show(text: str, most: int, blank: str = " ") -> str:
    """A text as a label: visible line ends, printable, and no mathematics where it has a dollar."""
    text = text.replace("\n", "\\n")
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    short = text if len(text) <= most else text[: most - 1] + "…"
    return short.replace(" ", blank).replace("$", r"\$")
