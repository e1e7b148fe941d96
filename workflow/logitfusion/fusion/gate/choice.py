"""Choosing on validation data how simple the steering may be: not at all, by a fixed weight, or by a gate.

Every way is judged on answers that it was not fitted on, by cross-validation. Of two ways the simpler one is taken
unless the other is better by more than one standard error of their difference (Breiman et al. 1984; Hastie, Tibshirani
and Friedman 2009, section 7.10), so that noise and ties go to the large model alone, then to a fixed weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from logitfusion.config.fusion import Tune
from logitfusion.config.gate import Gate
from logitfusion.config.tasks import Split
from logitfusion.errors import UserError
from logitfusion.fusion.gate.evidence import Evidence
from logitfusion.fusion.gate.file import Fitted, GateFile
from logitfusion.fusion.gate.fit import fit, judge

FOLDS = 5


@dataclass(frozen=True)
class Way:
    """One way to steer a group of tasks, and how it does on answers that it was not fitted on.

    Attributes:
        way: ``"large"`` (no steering), ``"fixed"`` or ``"gate"``.
        log_likelihood: of an answer with its end, in nats, mean over answers and then over tasks.
        behind: how much less that is than the best way's.
        error: standard error of this difference.
        weight: the fixed weight that is best on all answers.
        ridge: the gate's.
    """

    way: str
    log_likelihood: float
    behind: float
    error: float
    weight: float | None = None
    ridge: float | None = None

    def as_options(self) -> dict[str, float]:
        """The options of a fusion that differ from those of its gate."""
        return {} if self.way == "gate" else {"weights": self.weight or 0.0}


@dataclass(frozen=True)
class FittedGate:
    """A gate, and what to use on each group of tasks.

    Attributes:
        gate: fitted on all answers of all tasks.
        ridge: that was chosen for it.
        answers: task -> how many it was fitted on.
        ways: of each group, those that were compared, simplest first.
        chosen: of each group, the one to use.
    """

    gate: Gate
    ridge: float
    answers: dict[str, int]
    ways: list[list[Way]]
    chosen: list[Way]


def gate_file(fitted: FittedGate) -> GateFile:
    """What the file of the gate says."""
    return GateFile(gate=fitted.gate, fitted=Fitted(answers=fitted.answers, ridge=fitted.ridge))


def fit_gate(
    tasks: Mapping[str, Evidence],
    *,
    split: Split = "validation",
    groups: Sequence[Sequence[str]] | None = None,
    tune: Tune | None = None,
) -> FittedGate:
    """Fit a gate on the right answers of some tasks, and choose for each group of tasks whether it is worth it.

    Args:
        tasks: evidence of each.
        split: that the answers are of.
        groups: tasks that share one choice; by default all do.
        tune: its ridges are the candidates, and its anchors those of the fixed weight.

    Raises:
        UserError: the answers are those of the test split, or too few.
    """
    if split == "test":
        raise UserError(
            "A gate is fitted on validation examples: what is fitted on the test split can't be tested on it."
        )
    if not tasks:
        raise UserError("Fitting a gate needs the evidence of at least one task.")
    if few := next((name for name, task in tasks.items() if task.answers < FOLDS), None):
        raise UserError(f"Fitting a gate needs at least {FOLDS} validation examples of a task, and {few!r} has fewer.")
    groups = [list(tasks)] if groups is None else groups
    tune = tune or Tune()
    ordered, weights = sorted(tune.ridges, reverse=True), tune.anchors
    held = {ridge: dict(zip(tasks, _hold_out(list(tasks.values()), ridge), strict=True)) for ridge in ordered}
    ridge = ordered[_pick([_score(held[one], list(tasks)) for one in ordered])]
    constant = {name: torch.stack([judge(Gate.constant(w), task) for w in weights]) for name, task in tasks.items()}
    large = {name: judge(Gate.constant(0), task) for name, task in tasks.items()}
    ways, chosen = [], []
    for group in groups:
        fixed, weight = _hold_out_fixed([constant[name] for name in group], weights)
        scores = [
            _score(large, group),
            _score(dict(zip(group, fixed, strict=True)), group),
            _score(held[ridge], group),
        ]
        named = [{"way": "large"}, {"way": "fixed", "weight": weight}, {"way": "gate", "ridge": ridge}]
        best = max(scores, key=lambda score: score.mean)
        found = [
            Way(**name, log_likelihood=score.mean, behind=best.mean - score.mean, error=score.error(best))
            for name, score in zip(named, scores, strict=True)
        ]
        ways.append(found)
        chosen.append(found[_pick(scores)])
    answers = {name: task.answers for name, task in tasks.items()}
    return FittedGate(fit(list(tasks.values()), ridge), ridge, answers, ways, chosen)


@dataclass(frozen=True)
class _Score:
    """Log-likelihoods of the answers of each task; tasks count equally."""

    answers: list[Tensor]

    @property
    def mean(self) -> float:
        return float(torch.stack([task.mean() for task in self.answers]).mean())

    def error(self, other: _Score) -> float:
        """Standard error of the difference to another, answer by answer."""
        gaps = [mine - theirs for mine, theirs in zip(self.answers, other.answers, strict=True)]
        return float(torch.stack([gap.var() / len(gap) for gap in gaps]).sum().sqrt()) / len(gaps)


def _score(held: Mapping[str, Tensor], group: Sequence[str]) -> _Score:
    return _Score([held[name] for name in group])


def _pick(scores: Sequence[_Score]) -> int:
    """Number of the first, which is the simplest, that is within one standard error of the best."""
    best = max(scores, key=lambda score: score.mean)
    return next(place for place, score in enumerate(scores) if best.mean - score.mean <= score.error(best))


def _folds(answers: int) -> Tensor:
    return torch.arange(answers) % FOLDS


def _hold_out(tasks: Sequence[Evidence], ridge: float) -> list[Tensor]:
    """Log-likelihood of every answer of each task as a gate steers that was fitted on the other folds."""
    folds = [_folds(task.answers) for task in tasks]
    held = [torch.zeros(task.answers, dtype=torch.float64) for task in tasks]
    for fold in range(FOLDS):
        gate = fit([task.select(own != fold) for task, own in zip(tasks, folds, strict=True)], ridge)
        for task, own, found in zip(tasks, folds, held, strict=True):
            found[own == fold] = judge(gate, task.select(own == fold))
    return held


def _hold_out_fixed(tasks: Sequence[Tensor], weights: Sequence[float]) -> tuple[list[Tensor], float]:
    """The same by the fixed weight that is best on the other folds, of ``[W, answers]``; and the best on all."""
    folds = [_folds(found.shape[1]) for found in tasks]
    held = [torch.zeros_like(found[0]) for found in tasks]
    for fold in range(FOLDS):
        best = _best([found[:, own != fold] for found, own in zip(tasks, folds, strict=True)])
        for found, own, kept in zip(tasks, folds, held, strict=True):
            kept[own == fold] = found[best, own == fold]
    return held, weights[_best(tasks)]


def _best(tasks: Sequence[Tensor]) -> int:
    return int(torch.stack([found.mean(1) for found in tasks]).mean(0).argmax())
