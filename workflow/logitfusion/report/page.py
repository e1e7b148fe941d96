"""A page with one table, and what its cells look like: the same in all tracks."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from logitfusion.files import write_text

SCORES = ("accuracy", "exact_match", "score")


def write_tables(rows: list[dict[str, str]], note: str, html_path: str | Path, markdown_path: str | Path) -> None:
    """A table of texts (column -> cell) with a note under it, for the report (HTML) and for a README (Markdown)."""
    wide = pd.DataFrame(rows).fillna("")
    lines = ["| " + " | ".join(wide.columns) + " |", "|" + " --- |" * len(wide.columns)]
    lines += ["| " + " | ".join(row) + " |" for row in wide.itertuples(index=False)]
    write_text(markdown_path, "\n".join(lines) + f"\n\n{note}\n")
    write_text(html_path, page(_html_table(wide), note))


def page(body: str, note: str) -> str:
    """A page of HTML with a note (plain text) under its body."""
    return _PAGE.format(body=body, note=html.escape(note))


def score_cell(group: pd.DataFrame) -> str:
    """A score with its interval and, in brackets, the share of texts without an answer, if any."""
    scores = group[group["metric"].isin(SCORES) & group["ci_low"].notna()]
    if scores.empty:
        return ""
    failures = group[group["metric"] == "format_failures"]["value"]
    unanswered = f" ({failures.iloc[0]:.0%})" if len(failures) and failures.iloc[0] >= 0.005 else ""
    return interval_cell(scores.iloc[0]) + unanswered


def interval_cell(row: pd.Series, digits: int = 2) -> str:
    """A number with its interval."""
    if pd.isna(row["value"]):
        return "no gap"
    span = "" if pd.isna(row["ci_low"]) else f" [{row['ci_low']:.{digits}f}, {row['ci_high']:.{digits}f}]"
    return f"{row['value']:.{digits}f}{span}"


def describe_sizes(table: pd.DataFrame) -> str:
    """How many examples each task has."""
    sizes = table.groupby("task", sort=False)["n"].first()
    return f"n = {', '.join(f'{count} ({task})' for task, count in sizes.items())}"


def describe_source(table: pd.DataFrame) -> str:
    """What the numbers of a table come from."""
    first = table.iloc[0]
    return f"{first['run']}, config {first['config']}, commit {first['commit']}"


def count_seeds(seeds: Sequence[int]) -> str:
    """How many seeds there are."""
    return f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"


def _html_table(wide: pd.DataFrame) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in wide.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in wide.itertuples(index=False)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Results</title>
<style>
body {{ font: 14px/1.45 system-ui, sans-serif; margin: 1.5em; color: #222; background: #fff; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .35em .8em; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }}
th {{ border-bottom: 2px solid #444; }}
td {{ white-space: nowrap; }}
td:first-child {{ font-weight: 600; }}
.cards {{ display: flex; flex-wrap: wrap; gap: 1em; }}
figure {{ margin: 0; width: 9.5em; font-size: 12px; }}
img {{ width: 64px; height: 64px; object-fit: contain; image-rendering: auto; }}
p {{ color: #555; max-width: 60em; }}
</style>
{body}
<p>{note}</p>
</html>
"""
