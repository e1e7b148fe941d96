"""The tidy table that everything after it reads: one number a row, its columns written down once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from logitfusion.config.evaluate import Evaluate
from logitfusion.config.protocol import Standing
from logitfusion.evaluate.intervals import percentile_interval


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number and what it is of; ``None`` is an empty cell. The order of the fields is that of the columns.

    Attributes:
        subtask: one of a group of lm-evaluation-harness; empty for a whole task.
        better: ``higher`` or ``lower`` where methods are compared by this number, empty for all others.
        stderr: the standard error that lm-evaluation-harness gives.
        protocol: ``confirmatory`` or ``exploratory`` of a test split, empty of a run that froze nothing.
    """

    track: str
    run: str
    split: str
    method: str
    task: str
    subtask: str | None = None
    shots: int | None = None
    seed: int | None = None
    seeds: int = 1
    metric: str
    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    stderr: float | None = None
    better: str | None = None
    n: int
    seconds: float | None = None
    confidence: float
    config: str
    commit: str
    protocol: str | None = None


_DTYPES = {"str": "string", "int": "Int64", "float": "float64"}
# The annotations are texts: "int | None" is a column of whole numbers that may be empty.
DTYPES = {field.name: _DTYPES[field.type.split()[0]] for field in fields(Row)}
COLUMNS = tuple(DTYPES)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What the numbers of a track come from.

    Attributes:
        run: its name.
        split: the split that was scored.
        config: the digest of the run's config.
        commit: of the code.
        seed: of the training, where the whole track has one.
        protocol: whether the split was decoded as it had been frozen; None where nothing is frozen.
    """

    run: str
    split: str
    config: str
    commit: str
    seed: int | None = None
    protocol: Standing | None = None


@dataclass(frozen=True)
class Score:
    """A score and its bootstrap samples ``[resamples]``, NaN where it is no mean over examples."""

    value: float
    samples: np.ndarray

    def apply(self, formula: Callable[..., Any], *others: Score) -> Score:
        """``formula(self, *others)``, of the values and sample by sample, which keeps pairs."""
        value = formula(self.value, *(score.value for score in others))
        return Score(float(value), formula(self.samples, *(score.samples for score in others)))

    def __sub__(self, other: Score) -> Score:
        return self.apply(np.subtract, other)


def average(scores: list[Score]) -> Score:
    """The macro-average, sample by sample."""
    value = float(np.mean([score.value for score in scores]))
    return Score(value, np.mean([score.samples for score in scores], axis=0))


class TableWriter:
    """Collects the rows of one track, whose bootstrap it seeds."""

    def __init__(self, track: str, settings: Evaluate, provenance: Provenance) -> None:
        self.settings, self.rng = settings, np.random.default_rng(settings.seed)
        self.common = {"track": track, "confidence": settings.confidence, **asdict(provenance)}
        self.rows: list[Row] = []

    def add(self, metric: str, value: float | Score, **cells: Any) -> None:
        """Add a number, with its interval if it is a score.

        Args:
            cells: further fields of ``Row``; ``method``, ``task`` and ``n`` at least.
        """
        if isinstance(value, Score):
            cells["ci_low"], cells["ci_high"] = percentile_interval(value.samples, self.settings.confidence)
            value = value.value
        self.rows.append(Row(metric=metric, value=float(value), **(self.common | cells)))

    def table(self) -> pd.DataFrame:
        """All rows, with one type a column."""
        return pd.DataFrame(map(astuple, self.rows), columns=list(COLUMNS), dtype=object).astype(DTYPES)


def compare_with_best(writer: TableWriter, scores: dict[str, Score], *, better: str = "higher", **cells: Any) -> None:
    """Add each method's paired difference to the best score, of which methods it tells apart from the best.

    The best is chosen on the data that it is compared on, so the interval says what is not told apart, and no more.
    """
    choose = max if better == "higher" else min
    best = choose(scores.values(), key=lambda score: score.value, default=None)
    for method, score in scores.items():
        writer.add("behind_best", score - best, method=method, **cells)
