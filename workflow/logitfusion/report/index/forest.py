"""Forest plots of paired differences: a table whose middle column is drawn, so that it is text at every width."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from logitfusion.report.index.comparisons import Comparison, Row
from logitfusion.report.index.words import counted, difference, escape, judge_difference, number, signed


def draw_forest(comparison: Comparison, task: str, scale: tuple[float, float, float]) -> str:
    """The differences of all methods to the baseline on one task, with intervals around a zero line (HTML).

    Args:
        scale: from :func:`choose_scale`.
    """
    rows = _differences(comparison, task)
    if not rows:
        return ""
    low, high, step = scale
    first = rows[0][1]
    seeds = (
        counted(int(first["seeds"]), "training seed")
        if comparison.track != "clip"
        else counted(int(first["seeds"]), "seed")
    )
    shots = "" if pd.isna(first["shots"]) else f", {counted(int(first['shots']), 'shot')} a class"
    caption = (
        f"<b>{escape(task)}</b>: {escape(comparison.describe(task))},"
        f" difference to <b>{escape(comparison.baseline)}</b>"
        f" <span class=note>(paired, {first['confidence']:.0%} interval, n = {first['n']}, {seeds}{shots};"
        f" shown: corrected for {counted(len(rows), 'comparison')})</span>"
    )
    count = math.floor(high / step + 1e-9) - math.ceil(low / step - 1e-9)
    ticks = [step * (math.ceil(low / step - 1e-9) + place) for place in range(count + 1)]
    ends = ("worse", "better") if comparison.better(task) == "higher" else ("better", "worse")
    axis = "".join(f'<span style="left:{_place(one, scale):.2f}%">{signed(one)}</span>' for one in ticks)
    grid = "".join(
        f'<i class="{"zero" if abs(one) < step / 2 else "grid"}" style="left:{_place(one, scale):.2f}%"></i>'
        for one in ticks
    )
    body = "".join(_row(name, row, comparison, task, scale, grid) for name, row in rows)
    return (
        f'<table class="forest"><caption>{caption}</caption><thead><tr><th scope="col">method</th>'
        f'<th scope="col"><span class="ends"><span>{ends[0]}</span><span>{ends[1]}</span></span></th>'
        f'<th scope="col">difference</th><th scope="col">shown</th></tr></thead><tbody>{body}</tbody>'
        f'<tfoot aria-hidden="true"><tr><td></td><td><div class="axis">{axis}</div></td><td></td><td></td></tr></tfoot>'
        "</table>"
    )


def choose_scale(comparison: Comparison, task: str) -> tuple[float, float, float]:
    """Ends and step of the horizontal axis of a plot, the same for all tasks of a track whose scores are shares."""
    ends = {one: _ends(comparison, one) for one in comparison.tasks}
    shares = [one for one, values in ends.items() if all(-1 <= value <= 1 for value in values)]
    ends = [value for one in (shares if task in shares else [task]) for value in ends[one]]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    spread = max(high - low, 0.02)
    unit = 10.0 ** math.floor(math.log10(spread / 6))
    step = next(unit * base for base in (1, 2, 5, 10) if spread / (unit * base) <= 6)
    return math.floor(low / step - 0.1) * step, math.ceil(high / step + 0.1) * step, step


def _ends(comparison: Comparison, task: str) -> list[float]:
    found = [row for _, row in _differences(comparison, task)]
    return [end for row in found for end in (row["value"], row["ci_low"], row["ci_high"]) if not pd.isna(end)]


def _differences(comparison: Comparison, task: str) -> Sequence[tuple[str, Row]]:
    rows = [(name, comparison.difference(name, task)) for name in comparison.methods]
    return [(name, row) for name, row in rows if row is not None]


def _row(name: str, row: Row, comparison: Comparison, task: str, scale: tuple[float, float, float], grid: str) -> str:
    shown = judge_difference(row, comparison.better(task))
    low, high = (row["value"] if pd.isna(row[end]) else row[end] for end in ("ci_low", "ci_high"))
    left, right, dot = (_place(one, scale) for one in (low, high, row["value"]))
    marked = " spoken" if name in comparison.spoken else ""
    kind = {"better": "better", "worse": "worse"}.get(shown, "open")
    return (
        f'<tr class="{kind}{marked}"><th scope="row">{escape(name)}</th><td><div class="plot" aria-hidden="true">{grid}'
        f'<i class="bar" style="left:{left:.2f}%;width:{max(right - left, 0.3):.2f}%"></i>'
        f'<i class="dot" style="left:{dot:.2f}%"></i></div></td>'
        f'<td class="number" title="{number(row["value"], 6)}">{difference(row, comparison.digits)}</td>'
        f'<td class="shown"{_tell_p_value(row)}>{shown}</td></tr>'
    )


def _tell_p_value(row: Row) -> str:
    corrected = row.get("p_holm")
    return "" if pd.isna(corrected) else f' title="p = {corrected:.2g}, by Holm"'


def _place(value: float, scale: tuple[float, float, float]) -> float:
    """Percent of the width."""
    low, high, _ = scale
    return 100 * (value - low) / (high - low)
