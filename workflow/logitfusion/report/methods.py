"""Scores of all methods on all tasks: a plot and a table."""

from __future__ import annotations

import html
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from logitfusion.evaluate.table import SEEN
from logitfusion.files import whole, write_text
from logitfusion.report.style import GREY, colour, use_style

SCORES = ("accuracy", "exact_match", "score")


def plot_methods(table: pd.DataFrame, methods: list[str], base: str, ceiling: str, path: str | Path) -> None:
    """One panel a task: every method's score with its interval; lines mark the large model and the ceiling."""
    use_style()
    scores = table[table["metric"].isin(SCORES)]
    tasks = list(dict.fromkeys(scores["task"]))
    columns = min(3, len(tasks))
    lines = -(-len(tasks) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.6 * columns + 1.2, (0.32 * len(methods) + 1.1) * lines), squeeze=False, sharey=True
    )
    for axis, task in zip(axes.flat, tasks, strict=False):
        group = scores[scores["task"] == task].set_index("method")
        for name, style in ((base, ":"), (ceiling, "--")):
            if name in group.index:
                axis.axvline(group.loc[name, "value"], color=GREY, linestyle=style, linewidth=1, zorder=0)
        for position, method in enumerate(methods):
            if method not in group.index:
                continue
            row = group.loc[method]
            shade = GREY if method in (base, ceiling) else colour(position)
            errors = [[row["value"] - row["ci_low"]], [row["ci_high"] - row["value"]]]
            axis.errorbar(row["value"], position, xerr=errors, fmt="o", color=shade, capsize=3, markersize=5)
        confidence = group["confidence"].iloc[0]
        axis.set_title(f"{task} (n = {group['n'].iloc[0]})", fontsize=10)
        axis.set_xlabel(f"{group['metric'].iloc[0].replace('_', ' ')}, {confidence:.0%} interval")
        axis.set_xlim(-0.02, 1.02)
        axis.set_yticks(range(len(methods)), methods)
        axis.set_ylim(len(methods) - 0.5, -0.5)
    for axis in list(axes.flat)[len(tasks) :]:
        axis.set_visible(False)
    figure.tight_layout()
    with whole(path) as temporary:
        figure.savefig(temporary, format="svg")
    plt.close(figure)


def write_summary(
    table: pd.DataFrame, methods: list[str], seen: list[str], html_path: str | Path, markdown_path: str | Path
) -> None:
    """The results as one table, for the report (HTML) and for a README (Markdown)."""
    wide = _widen(table, methods, seen)
    first = table.iloc[0]
    examples = table[table["metric"].isin(SCORES)].groupby("task", sort=False)["n"].first()
    note = (
        "Share of right answers with its interval; in brackets after it the share of texts without an answer of the"
        f" asked form, if any. n = {', '.join(f'{count} ({task})' for task, count in examples.items())};"
        f" {first['split']} split; training seed {first['seed']}; {first['confidence']:.0%} bootstrap intervals over"
        f" examples; run {first['run']}, config {first['config']}, commit {first['commit']}."
    )
    lines = ["| " + " | ".join(wide.columns) + " |", "|" + " --- |" * len(wide.columns)]
    lines += ["| " + " | ".join(row) + " |" for row in wide.itertuples(index=False)]
    write_text(markdown_path, "\n".join(lines) + f"\n\n{note}\n")
    write_text(html_path, _PAGE.format(table=_html_table(wide), note=html.escape(note)))


def _widen(table: pd.DataFrame, methods: list[str], seen: list[str]) -> pd.DataFrame:
    """Methods down, tasks across, then what they come to over the tasks that experts were trained on."""
    tasks = [task for task in dict.fromkeys(table["task"]) if task != SEEN]
    rows = []
    for method in methods:
        mine = table[table["method"] == method]
        if mine.empty:
            continue
        cells = {"method": method}
        for task in tasks:
            cells[task if task in seen else f"{task} (unseen)"] = _score_cell(mine[mine["task"] == task])
        if SEEN in set(table["task"]):
            cells[f"mean of {SEEN}"] = _score_cell(mine[mine["task"] == SEEN])
            closure = mine[(mine["metric"] == "gap_closure") & (mine["task"] == SEEN)]
            cells["gap closure of it"] = "" if closure.empty else _interval(closure.iloc[0])
        speed = mine[mine["metric"] == "tokens_per_second"]["value"]
        cells["tokens/s"] = "" if speed.empty else f"{speed.mean():.0f}"
        rows.append(cells)
    return pd.DataFrame(rows).fillna("")


def _score_cell(group: pd.DataFrame) -> str:
    scores = group[group["metric"].isin(SCORES)]
    if scores.empty:
        return ""
    failures = group[group["metric"] == "format_failures"]["value"]
    unanswered = f" ({failures.iloc[0]:.0%})" if len(failures) and failures.iloc[0] >= 0.005 else ""
    return _interval(scores.iloc[0]) + unanswered


def _interval(row: pd.Series) -> str:
    if pd.isna(row["value"]):
        return "no gap"
    span = "" if pd.isna(row["ci_low"]) else f" [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"
    return f"{row['value']:.2f}{span}"


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
p {{ color: #555; max-width: 60em; }}
</style>
{table}
<p>{note}</p>
</html>
"""
