"""The tidy table that everything after it reads: one number a row, its columns written down once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd

from logitfusion.config.evaluate import Evaluate
from logitfusion.config.protocol import Standing
from logitfusion.evaluate.crossed import Crossed, Observations
from logitfusion.evaluate.crossed import average as average_tasks
from logitfusion.evaluate.intervals import percentile_interval


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number and what it is of; ``None`` is an empty cell. The order of the fields is that of the columns.

    Attributes:
        subtask: one of a group of lm-evaluation-harness; empty for a whole task.
        p_value: of no difference, for a paired difference of means; see ``crossed``. Not corrected for the number of
            comparisons.
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
    p_value: float | None = None
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
    """A score, of which more is known where it is a mean over examples.

    Attributes:
        samples: of the bootstrap, ``[resamples]``; NaN where it is no mean.
        observed: what it is the mean of; None where it is none.
    """

    value: float
    samples: np.ndarray
    observed: Observations | None = None

    @property
    def p_value(self) -> float | None:
        """Of 0, over examples and over trainings where there are several."""
        return None if self.observed is None else Crossed.of(self.observed).p_value

    def apply(self, formula: Callable[..., Any], *others: Score) -> Score:
        """``formula(self, *others)``, of the values and sample by sample, which keeps pairs."""
        value = formula(self.value, *(score.value for score in others))
        return Score(float(value), formula(self.samples, *(score.samples for score in others)))

    def __sub__(self, other: Score) -> Score:
        pair = self.observed, other.observed
        return replace(self.apply(np.subtract, other), observed=None if None in pair else pair[0] - pair[1])


def average(scores: list[Score]) -> Score:
    """The macro-average, sample by sample."""
    value = float(np.mean([score.value for score in scores]))
    observed = [score.observed for score in scores]
    means = None if None in observed else average_tasks(observed)
    return Score(value, np.mean([score.samples for score in scores], axis=0), means)


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

    def add_difference(self, metric: str, difference: Score, **cells: Any) -> None:
        """Add a paired difference, with its p-value."""
        self.add(metric, difference, p_value=difference.p_value, **cells)

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
