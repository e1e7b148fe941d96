"""The table of what was tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gating.trials import Judged
from logitfusion.fusion.ways import Difference, compare


@dataclass(frozen=True)
class Score:
    """Of a task's answers: mean log-likelihood in nats with its standard error, and the share that is said exactly."""

    likelihood: float
    error: float
    exact: float


@dataclass(frozen=True)
class Row:
    """One form in one setting, by task."""

    setting: str
    form: str
    scores: dict[str, Score]
    above: Difference
    """The mean log-likelihood over tasks less that of the fixed weight, paired over answers."""
    said_above: Difference
    """The same of the share of answers that are said."""

    @property
    def exact(self) -> float:
        """Every task counts as much."""
        return sum(score.exact for score in self.scores.values()) / len(self.scores)


def make_row(setting: str, form: str, judged: Mapping[str, Judged], fixed: Mapping[str, Judged]) -> Row:
    likelihoods = ({name: one.likelihoods for name, one in found.items()} for found in (judged, fixed))
    said = ({name: one.exact.double() for name, one in found.items()} for found in (judged, fixed))
    scores = {name: _score(one) for name, one in judged.items()}
    return Row(setting, form, scores, compare(*likelihoods), compare(*said))


def _score(judged: Judged) -> Score:
    found = judged.likelihoods
    return Score(float(found.mean()), float(found.std() / len(found) ** 0.5), float(judged.exact.double().mean()))


def as_markdown(rows: Sequence[Row], report: Mapping[str, Any]) -> str:
    """A table for each setting, and what the numbers mean."""
    lines = []
    for setting in dict.fromkeys(row.setting for row in rows):
        some = [row for row in rows if row.setting == setting]
        tasks = list(some[0].scores)
        lines += [f"| {setting} | {' | '.join(tasks)} | likelier than fixed | said | said above fixed |"]
        lines += ["|" + " --- |" * (len(tasks) + 4)]
        for row in some:
            cells = [_write(row.scores[task]) for task in tasks]
            above, said = (f"{one.mean:+.2f} ± {one.error:.2f}" for one in (row.above, row.said_above))
            lines.append(f"| {row.form} | {' | '.join(cells)} | {above} | {row.exact:.2f} | {said} |")
        lines.append("")
    counts = ", ".join(f"{count} ({name})" for name, count in report["answers"].items())
    words = (
        "Log-likelihood of a held-out answer with its end, in nats ± its standard error / share of answers that greedy"
        " decoding says, teacher-forced, as far as the metric reads them. *Than fixed*, *above fixed*: the mean over"
        " tasks less that of the best fixed weight of each task, ± the standard error of this difference, paired"
        f" over answers. Validation answers of run {report['run']}: {counts}; commit {report['machine']['commit']}."
    )
    return "\n".join([*lines, words]) + "\n"


def _write(score: Score) -> str:
    return f"{score.likelihood:.2f} ± {score.error:.2f} / {score.exact:.2f}"
