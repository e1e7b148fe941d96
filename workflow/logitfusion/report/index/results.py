"""The results of each track as one table, all of its numbers out of the tidy table."""

from __future__ import annotations

from typing import Any

import pandas as pd

from logitfusion.config.fusion import SingleMethod
from logitfusion.config.methods import seen_tasks
from logitfusion.evaluate.fusion import SEEN
from logitfusion.evaluate.students import ALL_TASKS
from logitfusion.report.index.comparisons import Comparison, Rows, index_rows, make_comparisons
from logitfusion.report.index.facts import Facts
from logitfusion.report.index.grids import Cell, Column, Grid, mark_extreme, number_cell, plain_cell
from logitfusion.report.index.words import counted, listed
from logitfusion.report.page import describe_scores, describe_sizes

MARKS = (
    "Bold: the best of a column. ≈: not told apart from the best, because the interval of their paired difference"
    " holds 0."
)
FAILURES = Column("no answer", "lower", "share of texts without an answer of the asked form, mean over tasks")


def make_grids(facts: Facts) -> list[Grid]:
    """A table for each track that has numbers."""
    makers = {"fusion": _fusion, "distill": _distill, "clip": _fewshot}
    return [makers[one.track](facts, one) for one in make_comparisons(facts) if len(one.rows)]


def _fusion(facts: Facts, comparison: Comparison) -> Grid:
    run, seen = facts.run, seen_tasks(facts.run)
    names = [name for name in comparison.methods if name in set(comparison.rows["method"])]
    tasks = [task for task in comparison.tasks if task != SEEN]
    main = comparison.tasks[0]
    columns = [
        (Column("method", None, "and what steers it"), [Cell(name, _steering(run, name)) for name in names]),
        *(
            (
                _score_column(comparison, task, task if task in seen else f"{task} (unseen)"),
                _scores(comparison, names, task),
            )
            for task in tasks
        ),
    ]
    if SEEN in comparison.tasks:
        columns.append((_score_column(comparison, SEEN, f"mean of {SEEN}"), _scores(comparison, names, SEEN)))
    differences = {comparison.metric: comparison.baseline} | {key: name for key, (name, _) in comparison.rivals.items()}
    for metric, other in differences.items():
        if other is not None:
            column = Column(f"over {other}", comparison.better(main), f"paired difference to {other}, {main}")
            columns.append(
                (column, [number_cell(comparison.difference(name, main, metric), sign=True) for name in names])
            )
    for metric, title, meaning in (
        ("gap_closure", "gap closure", "(score - base) / (ceiling - base)"),
        ("score_ratio", "score ratio", "score / ceiling, which the paper calls closing the gap"),
    ):
        cells = [number_cell(comparison.difference(name, main, metric)) for name in names]
        columns.append((Column(title, "higher", f"{meaning}, {main}"), cells))
    columns.append(
        _mean_column(
            comparison, names, "mean_weight", Column("mean weight", None, "sum over experts, mean over tokens")
        )
    )
    columns.append(_mean_column(comparison, names, "format_failures", FAILURES))
    columns.append(
        _mean_column(comparison, names, "tokens_per_second", Column("tokens/s", "higher", "see Cost"), ".0f")
    )
    scores = describe_scores(comparison.rows)
    note = f"{scores}. {MARKS} The ceiling is not compared. {describe_sizes(comparison.rows)}."
    return _assemble("fusion", f"Fusion: {scores[:1].lower()}{scores[1:]}", columns, note)


def _steering(run: Any, name: str) -> str:
    entry = run.fusion.methods[name]
    if isinstance(entry, SingleMethod):
        return f"{entry.model} alone"
    weights = "solved weights" if entry.weights == "dynamic" else f"weight {entry.weights}"
    if entry.weights == "dynamic" and entry.rule == "gate":
        return f"{listed(list(entry.experts))}: learned gate"
    if entry.tune is not None:
        weights = "fixed weight, tuned" if set(entry.tune.trusts) == {0.0} else f"{weights}, tuned trust"
    selection = f", {entry.selection}" if len(entry.experts) > 1 else ""
    return f"{listed(list(entry.experts))}: {weights}{selection}"


def _distill(facts: Facts, comparison: Comparison) -> Grid:
    track = facts.job.distill
    names, main = comparison.methods, comparison.tasks[0]
    kinds = {name: listed(list(entry.teachers)) or "none" for name, entry in facts.run.distill.methods.items()}
    columns = [
        (Column("method"), [Cell(name) for name in names]),
        (Column("teachers"), [Cell(kinds.get(name) or comparison.references.get(name, "")) for name in names]),
        *(
            (
                _score_column(comparison, task, f"mean of {task}" if task == ALL_TASKS else task),
                _scores(comparison, names, task),
            )
            for task in comparison.tasks
        ),
    ]
    if comparison.baseline is not None:
        cells = [number_cell(comparison.difference(name, main), sign=True) for name in names]
        column = Column(f"over {comparison.baseline}", comparison.better(main), f"paired difference, {main}")
        columns.append((column, cells))
    for teacher in track.teachers:
        column = Column(
            f"answers as {teacher}", None, "of the examples that the teacher answers in form, the same answer"
        )
        columns.append(_mean_column(comparison, names, f"agreement_{teacher}", column, weighted=True))
    columns.append(_mean_column(comparison, names, "format_failures", FAILURES))
    columns.append(
        _mean_column(comparison, names, "seconds_of_decoding", Column("decoding, s", "lower", "see Cost"), ".1f")
    )
    scores = describe_scores(comparison.rows)
    note = (
        f"{scores}, mean over {counted(len(track.seeds), 'training seed')}. {MARKS} Student and teachers"
        f" themselves are not compared. {describe_sizes(comparison.rows)}."
    )
    return _assemble("distill", f"Distillation: {scores[:1].lower()}{scores[1:]}", columns, note)


def _fewshot(facts: Facts, comparison: Comparison) -> Grid:
    table, track = facts.track("clip"), facts.job.clip
    pairs = [(task, name) for task in comparison.tasks for name in track.methods]
    origins = [task if task in track.sets else f"{task} (shift)" for task, _ in pairs]
    columns = [
        (Column("method"), [Cell(name) for _, name in pairs]),
        (Column("test set", filtered=True), [Cell(origin) for origin in origins]),
    ]
    for shots in track.shots:
        rows = index_rows(table[table["shots"] == shots])
        columns.append(
            (Column(counted(shots, "shot"), "higher"), [_accuracy(rows, task, name) for task, name in pairs])
        )
    for other in track.baselines:
        cells = [
            number_cell(comparison.difference(name, task, f"gain_over_{other}"), 3, sign=True) for task, name in pairs
        ]
        columns.append((Column(f"over {other}", "higher", f"paired difference at {track.shots[-1]} shots"), cells))
    for metric, column, form in (
        (
            "calibration_error",
            Column(
                "ECE",
                "lower",
                "expected calibration error of the plain softmax, which no temperature has calibrated; 15 bins",
            ),
            ".3f",
        ),
        (
            "oracle_accuracy",
            Column("oracle", None, "the best test epoch in place of the last: what choosing on test data reports"),
            ".3f",
        ),
        ("seconds_of_fitting", Column("fit, s", "lower", "seconds of one fit, see Cost"), ".2f"),
    ):
        cells = [plain_cell(_value(comparison.found, task, name, metric), form) for task, name in pairs]
        columns.append((column, cells))
    note = (
        f"Accuracy with its interval, ± the standard deviation over {counted(len(track.seeds), 'seed')}. {MARKS}"
        f" Differences, ECE and oracle at {counted(track.shots[-1], 'shot')}. {describe_sizes(table)}."
    )
    return _assemble("clip", "Few-shot CLIP: accuracy", columns, note)


def _accuracy(rows: Rows, task: str, name: str) -> Cell:
    row, spread = rows.get((name, task, "accuracy")), _value(rows, task, name, "accuracy_std")
    cell = number_cell(row, 3, mark=_mark(rows, task, name))
    return Cell(cell.text, f"{cell.more} ± {spread:.3f}" if spread is not None else cell.more, cell.value, cell.mark)


def _score_column(comparison: Comparison, task: str, title: str) -> Column:
    return Column(title, comparison.better(task), comparison.describe(task))


def _scores(comparison: Comparison, names: list[str], task: str) -> list[Cell]:
    rows = comparison.found
    return [number_cell(comparison.score(name, task), mark=_mark(rows, task, name)) for name in names]


def _mark(rows: Rows, task: str, name: str) -> Any:
    """``best`` where no other is ahead, ``tied`` where the interval of the difference to the best holds 0."""
    row = rows.get((name, task, "behind_best"))
    if row is None:
        return ""
    return "best" if row["value"] == 0 else "tied" if row["ci_low"] <= 0 <= row["ci_high"] else ""


def _value(rows: Rows, task: str, name: str, metric: str) -> float | None:
    row = rows.get((name, task, metric))
    return None if row is None else row["value"]


def _mean_column(
    comparison: Comparison, names: list[str], metric: str, column: Column, form: str = ".2f", weighted: bool = False
) -> tuple[Column, list[Cell]]:
    """A number without an interval, as its mean over tasks (by their examples if ``weighted``)."""
    rows = comparison.rows[comparison.rows["metric"] == metric]
    cells = []
    for name in names:
        mine = rows[rows["method"] == name]
        weights = mine["n"].astype(float) if weighted else pd.Series(1.0, mine.index)
        cells.append(plain_cell((mine["value"] * weights).sum() / weights.sum() if len(mine) else None, form))
    return column, mark_extreme(cells, column.better) if column.better else cells


def _assemble(name: str, caption: str, columns: list[tuple[Column, list[Cell]]], note: str) -> Grid:
    """A grid of columns, without those that are empty."""
    kept = [(column, cells) for column, cells in columns if any(cell.text for cell in cells)]
    rows = list(zip(*(cells for _, cells in kept), strict=True))
    return Grid(name, caption, [column for column, _ in kept], rows, note)
