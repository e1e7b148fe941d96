"""Fitting a gate on validation data, beside the simpler ways to steer that it has to be better than."""

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
from logitfusion.fusion.gate.fit import Grouped, GroupedGates, fit_path, judge
from logitfusion.fusion.gate.nested import Nested
from logitfusion.fusion.ways import FOLDS, Way, best_way


@dataclass(frozen=True)
class FittedGate:
    """A gate, and what it is compared with.

    Attributes:
        file: the gate that was fitted on all answers of all tasks; that of a group has another bias.
        ways: of each group of tasks, from the simplest on: the large model alone, the best fixed weight, the gate. See
            ``ways.choose``.
    """

    file: GateFile
    ways: list[list[Way]]


def fit_gate(
    tasks: Mapping[str, Evidence],
    *,
    split: Split = "validation",
    groups: Sequence[Sequence[str]] | None = None,
    tune: Tune | None = None,
) -> FittedGate:
    """Fit a gate on the right answers of some tasks, and judge it on answers that it was not fitted on.

    The ridge is the greatest that is not clearly worse than the best, by cross-validation over all tasks. Held-out
    answers are judged by gates whose ridge was chosen without them, too (a nested cross-validation). Where there are
    several groups, each has a bias of its own: how far its experts are to be trusted at all.

    Args:
        tasks: evidence of each.
        split: that the answers are of.
        groups: tasks that share a bias, and one choice among the ways to steer; by default all do.
        tune: its ridges are the candidates, and its anchors those of the fixed weight.

    Raises:
        UserError: the answers are those of the test split, too few, or impossible for the large model; or groups that
            have not each task once.
    """
    if split == "test":
        raise UserError(
            "A gate is fitted on validation examples: what is fitted on the test split can't be tested on it."
        )
    _check(tasks)
    tune = tune or Tune()
    groups = [list(tasks)] if groups is None else groups
    if sorted(name for group in groups for name in group) != sorted(tasks) or not all(groups):
        raise UserError(f"A gate is fitted on groups that have each task once: those of {', '.join(sorted(tasks))}.")
    grouped = {name: Grouped(tasks[name], place) for place, group in enumerate(groups) for name in group}
    nested = Nested(grouped, sorted(tune.ridges, reverse=True), fit_path, GroupedGates.judge)
    ridge, gates = nested.choose()
    fitted = Fitted(answers={name: task.answers for name, task in tasks.items()}, ridge=ridge)
    held, likelihoods = nested.hold_out()
    ways = []
    for place, group in enumerate(groups):
        options = {"gate": gates.groups[place].dump()} if len(groups) > 1 else {}
        without = [{"gate": one.groups[place]} for one in held]
        way = Way("gate", options, without, {name: likelihoods[name] for name in group})
        ways.append(_ways({name: tasks[name] for name in group}, tune.anchors, way))
    return FittedGate(GateFile(gate=gates.gate, fitted=fitted), ways)


def _check(tasks: Mapping[str, Evidence]) -> None:
    """Refuse evidence that no gate can be fitted on."""
    if not tasks:
        raise UserError("Fitting a gate needs the evidence of at least one task.")
    if few := next((name for name, task in tasks.items() if task.answers < FOLDS), None):
        raise UserError(f"Fitting a gate needs at least {FOLDS} validation examples of a task, and {few!r} has fewer.")
    for name, task in tasks.items():
        if not judge(Gate.constant(0.0), task).isfinite().all():
            raise UserError(
                f"A gate can't be fitted on {name!r}: a right answer has a token that the large model excludes (a"
                " logit of -inf), so no weight makes it likely; use a large model that has all tokens of the answers."
            )


def _ways(tasks: Mapping[str, Evidence], weights: Sequence[float], gate: Way) -> list[Way]:
    """The ways to steer one group of tasks."""

    def try_out(some: Sequence[float]) -> dict[str, Tensor]:
        return {name: torch.stack([judge(Gate.constant(w), task) for w in some]) for name, task in tasks.items()}

    return [
        best_way("large", try_out([0.0]), [{"weights": 0.0}]),
        best_way("fixed", try_out(weights), [{"weights": weight} for weight in weights]),
        gate,
    ]
