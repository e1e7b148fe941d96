"""A page with one table, and what its cells look like: the same in all tracks."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from logitfusion.evaluate.names import is_share_of_right, say_metric
from logitfusion.files import write_text


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of scores that methods are compared by, of whole tasks and of averages."""
    return table[table["better"].notna() & table["subtask"].isna()]


def write_tables(
    title: str, rows: list[dict[str, str]], note: str, html_path: str | Path, markdown_path: str | Path
) -> None:
    """A table of texts (column -> cell) with a note under it, for the report (HTML) and for a README (Markdown)."""
    wide = pd.DataFrame(rows).fillna("")
    lines = ["| " + " | ".join(wide.columns) + " |", "|" + " --- |" * len(wide.columns)]
    lines += ["| " + " | ".join(row) + " |" for row in wide.itertuples(index=False)]
    write_text(markdown_path, "\n".join(lines) + f"\n\n{note}\n")
    write_text(html_path, _PAGE.format(title=html.escape(title), table=_html_table(wide), note=html.escape(note)))


def score_cell(group: pd.DataFrame) -> str:
    """A score with its interval and, in brackets, the share of texts without an answer, if any."""
    scores = compared(group)
    if scores.empty:
        return ""
    failures = group[group["metric"] == "format_failures"]["value"]
    unanswered = f" ({failures.iloc[0]:.0%})" if len(failures) and failures.iloc[0] >= 0.005 else ""
    return interval_cell(scores.iloc[0]) + unanswered


def interval_cell(row: pd.Series, digits: int = 2) -> str:
    """A number with its interval."""
    if pd.isna(row["value"]):
        return "no gap"
    value = f"{row['value']:.{digits}f}" if abs(row["value"]) < 1e5 else f"{row['value']:.3g}"
    if not pd.isna(row["ci_low"]):
        return f"{value} [{row['ci_low']:.{digits}f}, {row['ci_high']:.{digits}f}]"
    return value if pd.isna(row["stderr"]) else f"{value} ± {row['stderr']:.{digits}f} s.e."


def describe_sizes(table: pd.DataFrame) -> str:
    """How many examples each task has."""
    sizes = table.groupby("task", sort=False)["n"].first()
    return f"n = {', '.join(f'{count} ({task})' for task, count in sizes.items())}"


def describe_scores(table: pd.DataFrame) -> str:
    """What the scores of whole tasks are: ``Share of right answers``, or their metrics by name."""
    scores = compared(table)
    named = dict(zip(scores["task"], scores["metric"], strict=True))
    metrics = {task: metric for task, metric in named.items() if metric != "score"}  # which is an average of these
    if all(map(is_share_of_right, metrics.values())):
        return "Share of right answers"
    return f"Score ({', '.join(f'{say_metric(metric)} of {task}' for task, metric in metrics.items())})"


def describe_source(table: pd.DataFrame) -> str:
    """What the numbers of a table come from."""
    first = table.iloc[0]
    return f"{first['run']}, config {first['config']}, commit {first['commit']}"


def count_seeds(seeds: Sequence[int]) -> str:
    """How many seeds there are."""
    return f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"


def _html_table(wide: pd.DataFrame) -> str:
    """The table; its first column names the rows."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in wide.columns)
    body = "".join(
        f'<tr><th scope="row">{html.escape(first)}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        + "</tr>"
        for first, *row in wide.itertuples(index=False)
    )
    return f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 14px/1.45 system-ui, sans-serif; margin: 1.5em; color: #222; background: #fff; }}
h1 {{ font-size: 20px; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .35em .8em; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }}
thead th {{ border-bottom: 2px solid #444; vertical-align: bottom; }}
td, tbody th {{ white-space: nowrap; }}
tbody th {{ position: sticky; left: 0; background: #fff; }}
p {{ color: #444; max-width: 60em; }}
</style>
</head>
<body>
<h1 id="title">{title}</h1>
<div role="region" aria-labelledby="title" tabindex="0"><table aria-labelledby="title">{table}</table></div>
<p>{note}</p>
</body>
</html>
"""
