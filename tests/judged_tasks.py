"""Judged tasks made up of what each document scored, with the harness's numbers that belong to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from logitfusion.evaluate.judged import mark_correct
from logitfusion.evaluate.scores import METRIC, HarnessScore, JudgedTask


def make_judged(
    values: dict[str, list[float]], metric: str = "accuracy", *, higher: bool = True, **columns: Any
) -> JudgedTask:
    """A task whose documents scored so much.

    Args:
        values: method -> a score for each document.
        columns: further columns, as ``method -> a value`` or ``method -> a value for each document``.
    """
    rows = [
        {"method": method, "subtask": "t", "id": number, "prompt": "q", "gold": "a $1", "text": "x", "answer": "x",
         "format_failure": False, "tokens": ["a", " b"], "weights": [[], []], "expert": [-1, -1], "choices": [],
         "loglikelihoods": [], "seconds": 0.5, METRIC + metric: float(value)}
        | {name: _pick(column, method, number) for name, column in columns.items()}
        for method, scores in values.items() for number, value in enumerate(scores)
    ]  # fmt: skip
    scores = {method: [score_of(metric, found, higher=higher)] for method, found in values.items()}
    return JudgedTask(mark_correct(pd.DataFrame(rows), metric), metric, scores)


def _pick(column: dict[str, Any], method: str, number: int) -> Any:
    value = column[method]
    return value[number] if isinstance(value, tuple) else value


def score_of(
    metric: str, values: list[float], *, subtask: str | None = None, higher: bool | None = True
) -> HarnessScore:
    """The harness's number where the metric is a mean."""
    stderr = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return HarnessScore(
        subtask=subtask, metric=metric, value=float(np.mean(values)), stderr=stderr, n=len(values),
        higher_is_better=higher,
    )  # fmt: skip
