"""What the plots and pages of this track share: the rows they draw, names, looks, and predictions image by image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from logitfusion.config.tracks import FewShotReport
from logitfusion.report.style import COLOURS, GREY, draw_interval

BLACK = "#000000"
LOOKS = (GREY, "."), (BLACK, "D")  # of CLIP itself and of the shown method
MARKERS = "os^v*Px<>"


def select_means(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracies over all seeds: the rows that have an interval."""
    return table[(table["metric"] == "accuracy") & table["ci_low"].notna()]


def name_set(task: str, track: FewShotReport) -> str:
    """A test set's name, marked where it is a shift of a data set."""
    return task if task in track.sets else f"{task} (shift)"


def name_shots(shots: int) -> str:
    """A number of shots in words."""
    return f"{shots} shot{'s' if shots > 1 else ''}"


def label_accuracy(means: pd.DataFrame) -> str:
    """What an axis of accuracies shows."""
    return f"accuracy, {means['confidence'].iloc[0]:.0%} interval"


def choose_looks(names: list[str], track: FewShotReport) -> dict[str, tuple[str, str]]:
    """Method -> colour and marker, the same in all plots; CLIP itself is grey and the shown method black."""
    fixed = dict(zip((track.clip, track.shown), LOOKS, strict=True))
    others = [name for name in track.methods if name not in fixed]
    shades = [shade for shade in COLOURS if shade != BLACK]
    looks = {name: (shades[place % len(shades)], MARKERS[place % len(MARKERS)]) for place, name in enumerate(others)}
    return {name: (fixed | looks)[name] for name in names}


def draw_accuracy(axis: plt.Axes, row: pd.Series, height: float, shade: str, marker: str, **look: Any) -> None:
    """A mean as a mark with its interval."""
    draw_interval(axis, row, height, shade, marker, cap=2.5, markersize={".": 9}.get(marker, 5.5), **look)


@dataclass(frozen=True)
class Predictions:
    """Of one data set and the sets that are a shift of it, image by image.

    Attributes:
        answers: ``method shots seed set id label answer correct``.
        images: ``set id label clip_answer factor factor_classes``; the factors are AMU's uncertainty.
        classes: names, by label.
    """

    answers: pd.DataFrame
    images: pd.DataFrame
    classes: list[str]

    def select(self, task: str, track: FewShotReport) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The shown method's answers on a test set with the most shots, all seeds; and the images of the set."""
        answers = self.answers
        shown = (answers["method"] == track.shown) & (answers["shots"] == track.shots[-1]) & (answers["set"] == task)
        return answers[shown], self.images[self.images["set"] == task]


def each_set(track: FewShotReport) -> Iterator[tuple[str, str]]:
    """Every data set with each of its test sets."""
    for origin, tasks in track.sets.items():
        for task in tasks:
            yield origin, task
