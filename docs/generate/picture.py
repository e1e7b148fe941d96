"""The picture of README.md: what each track's methods get right, with intervals, from the stored run."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import MaxNLocator

from generate.stored import FOLDER, StoredRun
from logitfusion.evaluate.fusion import SEEN
from logitfusion.files import sha256, whole
from logitfusion.report.page import compared
from logitfusion.report.style import COLOURS, GREY, STYLE, draw_interval, name_lines, show_percent

PATH = FOLDER / "demo.svg"

# Track -> its title, its methods from top to bottom, and the one that the others are held against.
PANELS = {
    "fusion": (
        "Fusion",
        ["large", "expert", "proxy", "dynamic", "gate", "multi_judged", "ceiling"],
        "large",
    ),
    "distill": ("Distillation", ["sft", "uld", "gld_vocab", "uld_two", "gld_vocab_two"], "sft"),
    "clip": (
        "Few-shot CLIP",
        ["zero_shot", "auxiliary_probe", "logit_sum", "tip_adapter_f", "amu", "amu_classes"],
        "zero_shot",
    ),
}
SHOTS, DATA_SET = 8, "emoji"


def draw(run: StoredRun, path: Path) -> None:
    """One panel a track; a line marks the method that the others are held against."""
    look = STYLE | dict.fromkeys(("font.size", "axes.labelsize", "xtick.labelsize", "ytick.labelsize"), 14)
    with plt.rc_context(look):
        figure, axes = plt.subplots(1, 3, figsize=(12, 3.5))
        for axis, (track, (title, methods, against)) in zip(axes, PANELS.items(), strict=True):
            scores = _scores(run, track)
            axis.axvline(scores.loc[against, "value"], color=GREY, linestyle=":", linewidth=1.5, zorder=0)
            for position, method in enumerate(methods):
                shade = GREY if method in (against, "ceiling") else COLOURS[0]
                draw_interval(axis, scores.loc[method], position, shade, markersize=7, linewidth=2)
            axis.set_title(title, fontsize=15)
            axis.set_xlabel(f"right answers (n = {scores['n'].iloc[0]})")
            axis.set_xlim(left=0)
            axis.xaxis.set_major_locator(MaxNLocator(4))
            show_percent(axis.xaxis)
            name_lines(axis, methods)
        figure.tight_layout(w_pad=2)
        about = {"Date": None, "Title": "What the demo measured", "Description": describe_source()}
        with whole(path) as temporary:
            figure.savefig(temporary, format="svg", facecolor="white", metadata=about)
        plt.close(figure)


def describe_source(folder: Path = FOLDER) -> str:
    """What the picture was drawn from; it is written into it."""
    return f"demo.csv {sha256(folder / 'demo.csv')}"


def _scores(run: StoredRun, track: str) -> pd.DataFrame:
    """Method -> its score with its interval."""
    table = compared(run.table[run.table["track"] == track])
    if track == "fusion":
        table = table[table["task"] == SEEN]
    if track == "clip":
        table = table[(table["task"] == DATA_SET) & (table["shots"] == SHOTS)]
    return table.set_index("method")
