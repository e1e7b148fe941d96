"""The section on methods: how each did on support images that were left out when the head was fitted."""

from __future__ import annotations

from logitfusion.report.index.page import PageSection
from logitfusion.report.index.words import escape, signed
from logitfusion.report.photos.photos import HeadFacts, MethodRow

HEAD = ("method", "right of those left out, %", "gain over CLIP alone, points", "n")


def methods_section(head: HeadFacts) -> PageSection:
    """A table of the comparison that ``fewshot fit`` made, and what it recommends."""
    columns = "".join(f'<th scope="col">{name}</th>' for name in HEAD)
    body = (
        f"<p>{escape(head.advice)}</p>"
        '<div class="wide" role="region" aria-label="Methods compared" tabindex="0"><table class="plain" aria-label="Methods compared">'
        f"<thead><tr>{columns}</tr></thead><tbody>{''.join(map(_row, head.methods))}</tbody></table></div>"
        '<p class="note">Each method was fitted without a part of the support images in turn, and asked about that part;'
        " 95% intervals.</p>"
    )
    return PageSection("methods", "Methods compared", body)


def _row(row: MethodRow) -> str:
    low, high = (100 * end for end in row.interval)
    gain = "" if row.gain is None else _say_gain(*(100 * one for one in row.gain))
    cells = (f"{100 * row.accuracy:.1f} [{low:.1f}, {high:.1f}]", gain, str(row.n))
    name = f"{row.name} (recommended)" if row.recommended else row.name
    drawn = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr{" class=best" if row.recommended else ""}><th scope="row">{escape(name)}</th>{drawn}</tr>'


def _say_gain(value: float, low: float, high: float) -> str:
    return f"{signed(value, 1)} [{signed(low, 1)}, {signed(high, 1)}]"
