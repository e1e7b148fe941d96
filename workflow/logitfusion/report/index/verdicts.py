"""A sentence with numbers for each track, made from the tidy table alone."""

from __future__ import annotations

from logitfusion.report.index.comparisons import Comparison
from logitfusion.report.index.words import difference, judge_difference, listed, number, signed, span


def write_verdicts(comparison: Comparison) -> list[str]:
    """A sentence for each method that the track is spoken of by, on the track's first task (plain text)."""
    sentences = [_verdict(comparison, method, role) for method, role in comparison.spoken.items()]
    return [sentence for sentence in sentences if sentence]


def _verdict(comparison: Comparison, method: str, role: str) -> str:
    task = comparison.tasks[0]
    score = comparison.score(method, task)
    if score is None:
        return ""
    text = f"{method} ({role}): {number(score['value'])} {span(score)} of {task} right"
    parts = [_against(comparison, method, comparison.metric, comparison.baseline, "")]
    parts += [_against(comparison, method, metric, name, words) for metric, (name, words) in comparison.rivals.items()]
    told = "; ".join(part for part in parts if part)
    ends = [
        f"{name} ({words}) {number(row['value'])}"
        for name, words in comparison.references.items()
        if (row := comparison.score(name, task)) is not None
    ]
    return f"{text}; {told}." + (f" For orientation: {listed(ends)}." if ends else "") if told else f"{text}."


def _against(comparison: Comparison, method: str, metric: str, other: str | None, words: str) -> str:
    row = comparison.difference(method, comparison.tasks[0], metric) if other and other != method else None
    if row is None:
        return ""
    shown = judge_difference(row)
    against = f"over {other}" if shown == "better" else f"against {other}"
    return f"{difference(row)} {against}{f', {words}' if words else ''}{_ending(shown)}"


def _ending(shown: str) -> str:
    return "" if shown == "better" else f": {shown}"


def tell_other_tasks(comparison: Comparison, method: str) -> str:
    """How a method stands to the baseline on the tasks that its sentence is not about; empty where there are none."""
    outcomes: dict[str, list[str]] = {}
    for task in comparison.tasks[1:]:
        row = comparison.difference(method, task)
        if row is not None:
            outcomes.setdefault(judge_difference(row), []).append(f"{task} ({signed(row['value'])})")
    order = ("better", "worse", "no difference shown", "no interval")
    told = [f"{outcome} on {listed(outcomes[outcome])}" for outcome in order if outcome in outcomes]
    return f"Elsewhere against {comparison.baseline}: {'; '.join(told)}." if told else ""
