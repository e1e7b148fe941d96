"""Numbers in words: the same digits, signs and judgements in sentences, plots and tables."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd

Better = Literal["higher", "lower"]
_LARGE = 1e5  # digits behind the point of such a number say nothing
Outcome = Literal["better", "worse", "no difference shown", "no interval"]


def escape(value: object) -> str:
    """A text for HTML, also inside of quotes."""
    return html.escape(str(value))


def number(value: float, digits: int = 2) -> str:
    """A score; a true minus, and no minus before zero."""
    text = f"{value:.{digits}f}" if abs(value) < _LARGE else f"{value:.3g}"
    return text.removeprefix("-") if not float(text) else text.replace("-", "\N{MINUS SIGN}")


def signed(value: float, digits: int = 2) -> str:
    """A difference: its sign is always written, but for zero."""
    text = number(value, digits)
    return f"+{text}" if value > 0 and float(text) else text


def span(row: Mapping[str, Any], digits: int = 2) -> str:
    """The interval of a row of the tidy table, in brackets, else its standard error; empty where it has neither."""
    if pd.isna(row["ci_low"]):
        return "" if pd.isna(row["stderr"]) else f"± {number(row['stderr'], digits)} s.e."
    return f"[{number(row['ci_low'], digits)}, {number(row['ci_high'], digits)}]"


def judge_difference(row: Mapping[str, Any], better: Better = "higher") -> Outcome:
    """What a difference shows: nothing where its interval holds 0, nor where that is chance among its comparisons.

    Args:
        row: of the tidy table, with ``p_holm`` where it was tested: corrected for the comparisons of its table.
        better: which way is better of what the difference is of.
    """
    if pd.isna(row["ci_low"]) or pd.isna(row["ci_high"]):
        return "no interval"
    corrected = row.get("p_holm")
    chance = not pd.isna(corrected) and corrected >= 1 - row["confidence"]
    if chance or row["ci_low"] <= 0 <= row["ci_high"]:
        return "no difference shown"
    return "better" if (row["ci_low"] > 0) == (better == "higher") else "worse"


def difference(row: Mapping[str, Any], digits: int = 2) -> str:
    """``+0.24 [0.19, 0.30]``."""
    digits = enough_digits(row, digits)
    return f"{signed(row['value'], digits)} {span(row, digits)}".strip()


def enough_digits(row: Mapping[str, Any], digits: int, most: int = 6) -> int:
    """So many that an interval without 0 isn't written as one that ends there."""
    if row["ci_low"] > 0 or row["ci_high"] < 0:
        nearest = min(abs(row["ci_low"]), abs(row["ci_high"]))
        return next((count for count in range(digits, most) if round(nearest, count)), most)
    return digits


def listed(names: Sequence[str], most: int = 12) -> str:
    """``a, b and c``; of very many, the first."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def counted(count: int, thing: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{count} {thing}{'' if count == 1 else 's'}"
