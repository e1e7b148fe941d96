"""The experts' weights along generated texts."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from logitfusion.config.tracks import TracesReport
from logitfusion.report.judged import name_examples, say_outcome
from logitfusion.report.style import GREY, STYLE, WIDTH, assign_colours, save_figure

COLUMNS = 3
MOST_TOKENS = 16
# Inches.
LABELS, TOKEN, TITLE, TICKS, HEADER, LEGEND = 1.35, 0.24, 0.3, 0.35, 0.65, 0.65
PANEL = WIDTH / COLUMNS - LABELS - 0.15


def plot_traces(judged: pd.DataFrame, track: TracesReport, path: str | Path) -> None:
    """A block an example, a panel a steered method: tokens downwards, bars are the weights, colours the experts.

    Args:
        judged: the task's judged examples.
        track: the task, how many of its first examples are drawn, and the steered methods with their experts.
    """
    judged = name_examples(judged)
    methods = [method for method in track.experts if method in set(judged["method"])]
    ids = sorted(judged["id"].unique())[: track.examples] if methods else []
    rows = judged[judged["method"].isin(methods) & judged["id"].isin(ids)].set_index(["id", "method"])
    lines = [methods[start : start + COLUMNS] for start in range(0, len(methods), COLUMNS)]
    tokens = {(number, line[0]): _longest(rows, number, line) for number in ids for line in lines}
    height = LEGEND + HEADER * len(ids) + sum(TITLE + TICKS + TOKEN * count for count in tokens.values())
    shades = assign_colours(track.steering)
    plt.rcParams.update(STYLE)
    figure = plt.figure(figsize=(WIDTH, height))
    top = height
    for number in ids:
        _write_header(figure, rows.loc[number, methods[0]], number, top / height)
        top -= HEADER
        for line in lines:
            count = tokens[number, line[0]]
            top -= TITLE + TOKEN * count
            for column, method in enumerate(line):
                left = LABELS + column * WIDTH / COLUMNS
                place = (left / WIDTH, top / height, PANEL / WIDTH, TOKEN * count / height)
                _draw(figure.add_axes(place), rows.loc[number, method], method, track.experts[method], shades, count)
            top -= TICKS
    names = list(dict.fromkeys(name for method in methods for name in track.experts[method]))
    if methods:
        handles = [plt.Rectangle((0, 0), 1, 1, color=shades[name]) for name in names]
        figure.legend(handles, names, loc="lower center", ncol=6, title="weights of the experts; dotted: weight 1")
    else:
        figure.text(0.5, 0.5, "No method steers this task.", ha="center", color=GREY)
    description = (
        f"Weights of {', '.join(names) or 'no expert'} at the tokens of the first {len(ids)} examples of {track.task},"
        f" a panel for each of {', '.join(methods) or 'no method'}; all examples are in the page Start here."
    )
    save_figure(figure, path, f"Weights along the text: {track.task}", description, rect=None)


def _longest(rows: pd.DataFrame, number: int | str, methods: Sequence[str]) -> int:
    """How many tokens the panels of a line have room for."""
    return min(max(1, *(len(rows.loc[number, method]["tokens"]) for method in methods)), MOST_TOKENS)


def _write_header(figure: plt.Figure, row: pd.Series, number: int | str, top: float) -> None:
    prompt = textwrap.shorten(_show(str(row["prompt"]), 220), 84, placeholder=" …")
    words = f"Example {number}: {prompt}\nright answer: {_show(str(row['gold']), 60)}"
    figure.text(0.01, top - 0.1 / figure.get_size_inches()[1], words, va="top", fontweight="bold")


def _draw(
    axis: plt.Axes, row: pd.Series, method: str, experts: Sequence[str], shades: dict[str, str], tokens: int
) -> None:
    for step, weights in enumerate(row["weights"][:tokens]):
        left = 0.0
        for expert, weight in zip(experts, weights, strict=True):
            axis.barh(step, weight, left=left, color=shades[expert], height=0.75)
            left += max(weight, 0.0)
    axis.axvline(1.0, color=GREY, linewidth=0.8, linestyle=":")
    axis.set_yticks(range(min(len(row["tokens"]), tokens)), [_show(token, 14, "␣") for token in row["tokens"][:tokens]])
    axis.set_ylim(tokens - 0.5, -0.5)
    axis.set_xlim(0, 2.1)
    axis.grid(False, axis="y")
    verdict = say_outcome(row)
    more = len(row["tokens"]) - tokens
    title = f"{_show(method, 18)}: {verdict}" + (f" (+{more} tokens)" if more > 0 else "")
    axis.set_title(title, loc="left", x=-(LABELS - 0.15) / PANEL)


def _show(text: str, most: int, blank: str = " ") -> str:
    """A text as a label: visible line ends, printable, and no mathematics where it has a dollar."""
    text = text.replace("\n", "\\n")
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    short = text if len(text) <= most else text[: most - 1] + "…"
    return short.replace(" ", blank).replace("$", r"\$")
