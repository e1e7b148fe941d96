"""A comparison of runs as text: for each track its scores, its differences, and how to read them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence

import pandas as pd

from logitfusion.evaluate.compare import Comparison, Difference, Score

_WIDTH = 110


def write_comparison(comparison: Comparison) -> str:
    """All tables."""
    families = dict.fromkeys((score.track, score.shots) for score in comparison.scores)
    return "\n\n".join(part for family in families for part in _write_family(comparison, *family))


def _write_family(comparison: Comparison, track: str, shots: int | None) -> Iterator[str]:
    scores, differences = (
        [row for row in rows if (row.track, row.shots) == (track, shots)]
        for rows in (comparison.scores, comparison.differences)
    )
    first = scores[0]
    at = "" if shots is None else f", {_count(shots, 'shot')}"
    repeated = _count(first.runs, "run") + (f" of {first.seeds} seeds" if first.seeds > 1 else "")
    yield f"{track}{at}: {repeated}, {comparison.confidence:.0%} intervals over examples and trainings"
    yield _align(list(map(_score_cells, scores)))
    if differences:
        yield _align(list(map(_difference_cells, differences)))
        yield _explain(comparison, first, differences[0].comparisons)


def _score_cells(row: Score) -> dict[str, str]:
    return {
        "task": row.task,
        "n": str(row.n),
        "method": row.method,
        "metric": row.metric,
        "score": _span(row.score, row.score_low, row.score_high),
        "score ratio": _span(row.score_ratio, row.ratio_low, row.ratio_high),
        "gap closure": _span(row.gap_closure, row.closure_low, row.closure_high),
    }


def _difference_cells(row: Difference) -> dict[str, str]:
    return {
        "task": row.task,
        "method": row.method,
        "rival": row.rival,
        "difference": _span(row.difference, row.low, row.high, sign="+"),
        "p (Holm)": _number(row.p_holm, ".2g"),
        "shown": row.verdict,
        "of these trainings": row.verdict_of_these,
        "smallest": _number(row.smallest, ".3f"),
        "of these": _number(row.smallest_of_these, ".3f"),
    }


def _explain(comparison: Comparison, first: Score, comparisons: int) -> str:
    text = (
        f"shown: after Holm's correction for {_count(comparisons, 'comparison')}. of these trainings: tested over"
        " examples alone, which says nothing of other seeds. smallest: the true difference that would be shown with"
        f" probability {comparison.power:g}."
    )
    if first.runs * first.seeds == 1:
        text += " There is one training of each method, so both say the same."
    return textwrap.fill(text, _WIDTH)


def _align(rows: Sequence[dict[str, str]]) -> str:
    """A table of texts without its empty columns."""
    table = pd.DataFrame(rows)
    kept = table.loc[:, (table != "").any()]
    widths = {name: max(len(name), *kept[name].map(len)) for name in kept}
    lines = [list(kept), *kept.to_numpy().tolist()]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths.values(), strict=True)).rstrip()
        for line in lines
    )


def _span(value: float, low: float, high: float, sign: str = "") -> str:
    text = _number(value, f"{sign}.3f")
    return text if math.isnan(low) or not text else f"{text} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)
