"""Which of several ways to steer is taken: the simplest that nothing is clearly better than.

Ways are compared on validation examples, example by example. One is clearly better than another if the difference is
more than its standard error (the one standard error rule: Breiman et al. 1984; Hastie, Tibshirani and Friedman 2009,
section 7.10), so noise and ties go to the simpler one: the large model alone, then a fixed weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

FOLDS = 5  # of a cross-validation
Measured = Mapping[str, Tensor]  # task -> a number of each of its examples, of which a higher one is better


@dataclass(frozen=True)
class Way:
    """One way to steer some tasks.

    Attributes:
        name: ``"large"`` (no steering), ``"fixed"`` (a weight), ``"tuned"`` (trust and anchor) or ``"gate"``.
        options: what it changes in the options of the method.
        without: the same, chosen without the examples of each fold.
        likelihoods: task -> log-likelihood of each right answer with its end, by the options chosen without it, in
            nats.
        metrics: task -> the task's own metric of each example, of a text that was decoded by the options chosen without
            it; none where nothing was decoded.
    """

    name: Literal["large", "fixed", "tuned", "gate"]
    options: dict[str, Any]
    without: list[dict[str, Any]]
    likelihoods: Measured
    metrics: Measured = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """By how much one way is better than another, and the standard error of that."""

    mean: float
    error: float

    @property
    def clear(self) -> bool:
        return self.mean > self.error


def fold_of(examples: int) -> Tensor:
    """The fold of each example of a task, ``[examples]``."""
    return torch.arange(examples) % FOLDS


def best_way(name: str, tried: Mapping[str, Tensor], options: Sequence[dict[str, Any]]) -> Way:
    """The likeliest of some options as one way: of all examples, and of those without each fold.

    Args:
        tried: task -> log-likelihoods ``[options, examples]``.
        options: what each changes in those of the method.
    """
    folds = {task: fold_of(values.shape[1]) for task, values in tried.items()}
    held = {task: torch.zeros_like(values[0]) for task, values in tried.items()}
    without = []
    for fold in range(FOLDS):
        best = _likeliest([values[:, folds[task] != fold] for task, values in tried.items()])
        without.append(options[best])
        for task, values in tried.items():
            mine = folds[task] == fold
            held[task][mine] = values[best, mine]
    return Way(name, options[_likeliest(list(tried.values()))], without, held)


def _likeliest(tried: Sequence[Tensor]) -> int:
    """Number of the best of ``[options, examples]``; tasks count equally."""
    return int(torch.stack([values.mean(1) for values in tried]).mean(0).argmax())


def mean(measured: Measured) -> float:
    """Over examples, then over tasks: every task counts as much."""
    return float(torch.stack([values.double().mean() for values in measured.values()]).mean())


def compare(one: Measured, other: Measured) -> Difference:
    """The mean of one way less that of another, paired over examples; tasks count equally."""
    gaps = [one[task].double() - other[task].double() for task in one]
    variance = torch.stack([gap.var() / len(gap) for gap in gaps]).sum() / len(gaps) ** 2
    return Difference(float(torch.stack([gap.mean() for gap in gaps]).mean()), float(variance.sqrt()))


def choose(ways: Sequence[Way]) -> Way:
    """The way to take, of some that are given from the simplest on.

    By likelihood alone it is the first that the likeliest is not clearly better than. Where texts were decoded, a way
    takes the place of a simpler one if its metric is clearly better, or if its metric is no worse and the right answers
    are clearly likelier.
    """
    if not all(way.metrics for way in ways):
        best = max(ways, key=lambda way: mean(way.likelihoods))
        return next(way for way in ways if not compare(best.likelihoods, way.likelihoods).clear)
    taken = ways[0]
    for way in ways[1:]:
        by_metric = compare(way.metrics, taken.metrics)
        likelier = compare(way.likelihoods, taken.likelihoods)
        if by_metric.clear or (by_metric.mean >= 0 and likelier.clear):
            taken = way
    return taken


def told(options: Mapping[str, Any]) -> dict[str, Any]:
    """What is shown of a choice: a gate has too many numbers."""
    return {key: value for key, value in options.items() if key != "gate"}


def as_rows(ways: Sequence[Way]) -> list[dict[str, Any]]:
    """For JSON: how each does, and by how much the likeliest is ahead of it."""
    best = max(ways, key=lambda way: mean(way.likelihoods))
    rows = []
    for way in ways:
        behind = compare(best.likelihoods, way.likelihoods)
        row = {"way": way.name, **told(way.options), "log_likelihood": mean(way.likelihoods)}
        row |= {"behind": behind.mean, "behind_error": behind.error}
        rows.append(row | ({"metric": mean(way.metrics)} if way.metrics else {}))
    return rows
