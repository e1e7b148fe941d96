"""A sentence with numbers for each track, made from the tidy table alone."""

from __future__ import annotations

import pandas as pd

from logitfusion.report.index.comparisons import Comparison
from logitfusion.report.index.words import difference, enough_digits, judge_difference, listed, number, signed, span


def write_verdicts(comparison: Comparison) -> list[str]:
    """A sentence for each method that the track is spoken of by, on the track's first task (plain text)."""
    sentences = [_verdict(comparison, method, role) for method, role in comparison.spoken.items()]
    return [sentence for sentence in sentences if sentence]


def _verdict(comparison: Comparison, method: str, role: str) -> str:
    task, digits = comparison.tasks[0], comparison.digits
    score = comparison.score(method, task)
    if score is None:
        return ""
    told = f"{number(score['value'], digits)} {span(score, digits)}".strip()
    words = comparison.describe(task)
    told = f"{told} of {task} right" if words == "share of right answers" else f"{words} {told} on {task}"
    text = f"{method} ({role}): {told}"
    parts = [_against(comparison, method, comparison.metric, comparison.baseline, "")]
    parts += [_against(comparison, method, metric, name, words) for metric, (name, words) in comparison.rivals.items()]
    return "; ".join(filter(None, [text, *parts])) + _label(comparison)


def _label(comparison: Comparison) -> str:
    """The end of a sentence that says how methods compare."""
    return " (exploratory)." if comparison.is_exploratory else "."


def _against(comparison: Comparison, method: str, metric: str, other: str | None, words: str) -> str:
    row = comparison.difference(method, comparison.tasks[0], metric) if other and other != method else None
    if row is None:
        return ""
    shown = judge_difference(row, comparison.better(comparison.tasks[0]))
    against = f"over {other}" if shown == "better" else f"against {other}"
    return f"{difference(row, comparison.digits)} {against}{f', {words}' if words else ''}{_ending(shown)}"


def tell_references(comparison: Comparison) -> str:
    """Where the baseline and the methods that bound the others are; empty where nothing is known of them."""
    baseline = {comparison.baseline: "the baseline"} if comparison.baseline else {}
    found = [
        f"{name}{'' if name in words else f' ({words})'} {number(row['value'], comparison.digits)}"
        for name, words in (baseline | comparison.references).items()
        if (row := comparison.score(name, comparison.tasks[0])) is not None
    ]
    return f"For orientation, {comparison.tasks[0]}: {listed(found)}." if found else ""


def _ending(shown: str) -> str:
    return "" if shown == "better" else f": {shown}"


def warn_of_no_width(comparison: Comparison, method: str) -> str:
    """Where no answer or every answer is right, a bootstrap has nothing to resample; empty elsewhere."""
    row = comparison.score(method, comparison.tasks[0])
    if row is None or pd.isna(row["ci_low"]) or row["ci_low"] < row["ci_high"]:
        return ""
    return (
        f"All {row['n']} answers of {method} are judged alike, so its interval has no width:"
        f" a share that is up to {3 / row['n']:.2f} away would often look the same."
    )


def tell_other_tasks(comparison: Comparison, method: str) -> str:
    """How a method stands to the baseline on the tasks that its sentence is not about; empty where there are none."""
    outcomes: dict[str, list[str]] = {}
    for task in comparison.tasks[1:]:
        row = comparison.difference(method, task)
        if row is not None:
            value = signed(row["value"], enough_digits(row, comparison.digits))
            outcome = judge_difference(row, comparison.better(task))
            outcomes.setdefault(outcome, []).append(f"{task} ({value})")
    order = ("better", "worse", "no difference shown", "no interval")
    told = [f"{outcome} on {listed(outcomes[outcome])}" for outcome in order if outcome in outcomes]
    if not told:
        return ""
    return f"Elsewhere, {method} against {comparison.baseline}: {'; '.join(told)}{_label(comparison)}"
