"""A judged task: its table of documents, and the harness's own numbers of every method."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from logitfusion.artefact import read_artefact, write_artefact
from logitfusion.tables import read_table, write_table

METRIC = "metric "  # columns of the judged table that hold a metric: this and its name


@dataclass(frozen=True, kw_only=True)
class HarnessScore:
    """One of lm-evaluation-harness's numbers.

    Attributes:
        subtask: one of a group; None for the whole task.
        metric: see ``name_metric``.
        stderr: its standard error; None where the harness gives none.
        n: documents.
        higher_is_better: None where the harness does not say.
    """

    subtask: str | None
    metric: str
    value: float
    stderr: float | None
    n: int
    higher_is_better: bool | None


@dataclass(frozen=True)
class _Numbers:
    """The file of the harness's numbers."""

    metric: str
    scores: dict[str, list[HarnessScore]]


@dataclass(frozen=True)
class JudgedTask:
    """What all methods did on one task.

    Attributes:
        examples: see ``JudgedExample``.
        metric: the one that methods are compared by.
        scores: method -> the harness's numbers.
    """

    examples: pd.DataFrame
    metric: str
    scores: dict[str, list[HarnessScore]]

    @cached_property
    def higher_is_better(self) -> bool:
        """Of the metric that methods are compared by, unless the harness says otherwise."""
        found = {one.higher_is_better for scores in self.scores.values() for one in scores if one.metric == self.metric}
        return False not in found

    @property
    def better(self) -> str:
        """The direction of that metric, as in the tidy table."""
        return "higher" if self.higher_is_better else "lower"

    @property
    def subtasks(self) -> list[str]:
        """Those of a group, its groups included; none where the task is one."""
        return list(dict.fromkeys(one.subtask for scores in self.scores.values() for one in scores if one.subtask))

    def metrics(self, subtask: str | None = None) -> list[str]:
        """The metrics of the whole task or of one subtask, the compared one first."""
        named = [one.metric for scores in self.scores.values() for one in scores if one.subtask == subtask]
        first = [self.metric] if self.metric in named or subtask is None else []
        return list(dict.fromkeys([*first, *named]))

    def find(self, method: str, metric: str, subtask: str | None = None) -> HarnessScore | None:
        """The harness's number; None where it has none."""
        found = (one for one in self.scores[method] if (one.subtask, one.metric) == (subtask, metric))
        return next(found, None)

    def by_document(self, column: str, subtask: str | None = None) -> pd.DataFrame:
        """A column of the judged table, methods down and documents across; empty if there is none."""
        rows = self.examples if subtask is None else self.examples[self.examples["subtask"] == subtask]
        if column not in rows.columns or rows.empty:
            return pd.DataFrame()
        return rows.pivot(index="method", columns=["subtask", "id"], values=column)

    def write(self, examples: Path, scores: Path) -> None:
        """Write the table of documents, and the numbers as JSON."""
        write_table(self.examples, examples)
        numbers = {method: list(map(asdict, found)) for method, found in self.scores.items()}
        write_artefact(scores, {"metric": self.metric, "scores": numbers})


def read_judged(examples: Path, scores: Path) -> JudgedTask:
    """What ``JudgedTask.write`` wrote."""
    found = read_artefact(scores, _Numbers)
    return JudgedTask(read_table(examples), found.metric, found.scores)


def name_metric(metric: str, filter_name: str) -> str:
    """The metric's own name, with that of a filter (``exact_match,strict-match``) unless it is ``none``."""
    return metric if filter_name == "none" else f"{metric},{filter_name}"


def is_mean(value: float, parts: Iterable[float]) -> bool:
    """Whether a score is the mean of what the documents add to it."""
    return bool(np.isclose(value, np.mean(list(parts)), rtol=1e-9, atol=1e-12))
