"""The section on methods: how each did on support images that were left out when the head was fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitfusion.report.index.page import PageSection
from logitfusion.report.index.words import escape, signed

if TYPE_CHECKING:
    from logitfusion.clip.fitting.compare import Comparison, Difference, Score

HEAD = ("method", "right", "accuracy, %", "against CLIP alone, points", "against the best, points")


def methods_section(comparison: Comparison, advice: str) -> PageSection:
    """A table of the comparison that ``fewshot fit`` made, and what it recommends."""
    head = "".join(f'<th scope="col">{name}</th>' for name in HEAD)
    rows = "".join(_row(score, comparison) for score in comparison.scores)
    untried = "".join(f"<li>{escape(name)}: {escape(why)}</li>" for name, why in comparison.not_tried.items())
    body = (
        f"<p>{escape(advice)}</p>"
        '<table class="plain cards" aria-label="Methods compared">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        f'<p class="note">Of {comparison.n} support images: each method was fitted without a part of them in turn, and'
        " asked about that part. Intervals of 95%; Wilson's for accuracies, paired for differences.</p>"
    )
    return PageSection(
        "methods", "Methods compared", body + (f"<p>Not tried:</p><ul>{untried}</ul>" if untried else "")
    )


def _row(score: Score, comparison: Comparison) -> str:
    accuracy = f"{100 * score.accuracy:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}]"
    cells = (f"{score.right} of {comparison.n}", accuracy, _say(score.against_clip), _say(score.against_best))
    drawn = "".join(f'<td data-label="{name}">{escape(cell)}</td>' for name, cell in zip(HEAD[1:], cells, strict=True))
    best = " class=best" if score.method == comparison.recommended else ""
    return f'<tr{best}><th scope="row">{escape(score.method)}</th>{drawn}</tr>'


def _say(difference: Difference) -> str:
    value, low, high = (signed(100 * one, 1) for one in (difference.value, difference.low, difference.high))
    return f"{value} [{low}, {high}]"
