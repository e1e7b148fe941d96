"""Judged documents for people: names that tell them apart, and what became of each."""

from __future__ import annotations

import numpy as np
import pandas as pd

RIGHT, WRONG, NO_ANSWER, SCORED = "rwns"


def name_examples(judged: pd.DataFrame) -> pd.DataFrame:
    """The table with ``id`` as the name of a document: its number, after the subtask where a group has several."""
    if judged["subtask"].nunique() <= 1:
        return judged
    return judged.assign(id=judged["subtask"].astype(str) + " " + judged["id"].astype(str))


def find_outcomes(judged: pd.DataFrame) -> np.ndarray:
    """A letter a row: right, wrong, without an answer of the asked form, or scored by a metric that grades."""
    right = judged["correct"].fillna(False).astype(bool)
    told = np.where(judged["correct"].isna(), SCORED, np.where(right, RIGHT, WRONG))
    return np.where(judged["format_failure"], NO_ANSWER, told)


def say_outcome(row: pd.Series) -> str:
    """One row's outcome in words."""
    if row["format_failure"]:
        return "no answer"
    if pd.isna(row["correct"]):
        return "no score of its own" if pd.isna(row["score"]) else f"score {row['score']:.3g}"
    return "right" if row["correct"] else "wrong"
