"""Nested cross-validation: what is fitted is judged on answers that neither it nor the choice of its ridge has seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

from logitfusion.fusion.ways import FOLDS, compare, fold_of, mean


class HasAnswers(Protocol):
    """Answers of a task, of which some can be selected by booleans ``[answers]``."""

    @property
    def answers(self) -> int: ...

    def select(self, answers: Tensor, /) -> Self: ...


Task = TypeVar("Task", bound=HasAnswers)
Fitted = TypeVar("Fitted")


class Nested(Generic[Task, Fitted]):
    """What is fitted on some tasks without some folds of their answers, each once.

    Args:
        tasks: by name.
        ridges: from the greatest on.
        fit: one for each ridge, of some answers of all tasks.
        judge: the log-likelihood of each answer of a task by one, ``[answers]``.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        ridges: Sequence[float],
        fit: Callable[[list[Task], Sequence[float]], list[Fitted]],
        judge: Callable[[Fitted, Task], Tensor],
    ) -> None:
        self.tasks, self.ridges, self.fit, self.judge = tasks, ridges, fit, judge
        self.folds = {name: fold_of(task.answers) for name, task in tasks.items()}
        self._made: dict[frozenset[int], list[Fitted]] = {}

    def choose(self, *left_out: int) -> tuple[float, Fitted]:
        """The greatest ridge that is not clearly worse than the best, and what is fitted with it, without some folds.

        The ridge is chosen by a cross-validation over the other folds.
        """
        place = 0
        if len(self.ridges) > 1:
            others = [fold for fold in range(FOLDS) if fold not in left_out]
            tried = [self._judge_without(others, left_out, ridge) for ridge in range(len(self.ridges))]
            best = max(tried, key=mean)
            place = next(place for place, one in enumerate(tried) if not compare(best, one).clear)
        return self.ridges[place], self._without(left_out)[place]

    def hold_out(self) -> tuple[list[Fitted], dict[str, Tensor]]:
        """What is fitted without each fold, and the log-likelihood of each answer by what has not seen it."""
        fitted = [self.choose(fold)[1] for fold in range(FOLDS)]
        return fitted, {name: self._judge(name, dict(enumerate(fitted))) for name in self.tasks}

    def _judge_without(self, folds: Sequence[int], left_out: Sequence[int], ridge: int) -> dict[str, Tensor]:
        """Log-likelihoods of the answers of some folds by what is fitted without each, and without others."""
        fitted = {fold: self._without((*left_out, fold))[ridge] for fold in folds}
        return {name: self._judge(name, fitted) for name in self.tasks}

    def _judge(self, name: str, fitted: Mapping[int, Fitted]) -> Tensor:
        """Log-likelihoods of a task's answers, each by what stands for its fold; of those whose fold has one."""
        task, folds = self.tasks[name], self.folds[name]
        found = torch.zeros(task.answers, dtype=torch.float64)
        for fold, one in fitted.items():
            found[folds == fold] = self.judge(one, task.select(folds == fold))
        return found[torch.isin(folds, torch.tensor(list(fitted)))]

    def _without(self, left_out: Sequence[int]) -> list[Fitted]:
        """What is fitted without some folds, for each ridge."""
        key = frozenset(left_out)
        if key not in self._made:
            gone = torch.tensor(left_out, dtype=torch.long)
            some = [task.select(~torch.isin(self.folds[name], gone)) for name, task in self.tasks.items()]
            self._made[key] = self.fit(some, self.ridges)
        return self._made[key]
