"""Fitting a gate: the likelihood of right answers, with a ridge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from logitfusion.config.gate import Gate, GateFeature
from logitfusion.fusion.gate.evidence import Evidence
from logitfusion.fusion.gate.features import FEATURES
from logitfusion.fusion.gate.weights import find_score, make_relative

LARGEST = 3.0  # no weight is above it
_DIGITS = 6  # of the numbers of a gate, so that its file can be read


@dataclass(frozen=True)
class Grouped:
    """The evidence of a task, and the place of its group among the groups of tasks that have a bias each."""

    evidence: Evidence
    group: int = 0

    @property
    def answers(self) -> int:
        return self.evidence.answers

    def select(self, answers: Tensor) -> Grouped:
        """Of some answers alone; ``answers`` are booleans."""
        return replace(self, evidence=self.evidence.select(answers))


@dataclass(frozen=True)
class GroupedGates:
    """A gate for each group of tasks, which differ in their biases alone, and one for tasks of no known group."""

    gate: Gate
    groups: list[Gate]

    def judge(self, task: Grouped) -> Tensor:
        """Log-likelihood of each answer as the gate of its group steers, ``[answers]``."""
        return judge(self.groups[task.group], task.evidence)


def fit(tasks: Sequence[Evidence], ridge: float) -> Gate:
    """The gate that maximises the mean log-likelihood of an answer, less ``ridge / 2 * |theta|^2``.

    Every task counts as much, however many answers it has. Features are standardised over all tokens, so one ridge
    means the same for all of them.

    Args:
        tasks: evidence of each; they may have different numbers of experts.
        ridge: in nats.
    """
    return fit_path([Grouped(task) for task in tasks], [ridge])[0].gate


def fit_path(tasks: Sequence[Grouped], ridges: Sequence[float]) -> list[GroupedGates]:
    """Gates for each ridge, as ``fit`` finds them; each search begins where the last one ended.

    What is a group's own in its bias is the weight of one more input, 1 in that group and 0 in others, so the ridge
    draws it to 0.
    """
    relative = any(task.evidence.experts > 1 for task in tasks)
    groups = 1 + max(task.group for task in tasks)
    inputs = [_inputs(task, relative, groups) for task in tasks]
    problem = Problem.of([task.evidence for task in tasks], inputs)
    theta = torch.zeros(len(problem.mean) + 1, dtype=torch.float64)  # the last is the bias
    names = [(part, name) for part in (["features", "relative"] if relative else ["features"]) for name in FEATURES]
    found = []
    for ridge in ridges:
        theta = problem.maximise(theta, ridge)
        gate = _as_gate(theta, problem, names)
        biases = theta[-1] + problem.score_groups(theta, len(names), groups)
        found.append(GroupedGates(gate, [gate.model_copy(update={"bias": _round(one)}) for one in biases.tolist()]))
    return found


def judge(gate: Gate, task: Evidence) -> Tensor:
    """Log-likelihood of each answer as a gate steers, ``[answers]``."""
    return task.log_likelihood(gate.largest * find_score(gate, task.features).sigmoid())


@dataclass(frozen=True)
class Problem:
    """Tasks with their standardised inputs ``[F, T, N]``; a feature that says nothing is 0.

    ``mean``, ``scale`` and ``used`` are ``[F]``.
    """

    tasks: Sequence[Evidence]
    inputs: list[Tensor]
    mean: Tensor
    scale: Tensor
    used: Tensor

    @classmethod
    def of(cls, tasks: Sequence[Evidence], raw: list[Tensor]) -> Problem:
        flat = torch.cat([given.flatten(1) for given in raw], dim=1)
        mean, scale = flat.mean(1), flat.std(1, correction=0)
        used = scale > 1e-6 * (1 + mean.abs())
        problem = cls(tasks, [], mean, scale, used)
        return replace(problem, inputs=[problem.standardise(given) for given in raw])

    def standardise(self, raw: Tensor) -> Tensor:
        """Inputs ``[F, T, N]`` as they are scored."""
        inverse = torch.where(self.used, 1 / self.scale, 0.0)
        return (raw - self.mean[:, None, None]) * inverse[:, None, None]

    def maximise(self, start: Tensor, ridge: float) -> Tensor:
        """The best weights and bias ``[F + 1]``."""
        theta = start.clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [theta], max_iter=200, tolerance_grad=1e-7, tolerance_change=1e-10, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = ridge / 2 * theta[:-1].square().sum() - self.likelihood(theta)
            loss.backward()
            return loss

        optimizer.step(closure)
        return theta.detach()

    def score_groups(self, theta: Tensor, features: int, groups: int) -> Tensor:
        """What the inputs behind the first ``features`` add to the score in each group, ``[groups]``."""
        apart = torch.eye(groups, dtype=theta.dtype)[:, : len(self.mean) - features] - self.mean[features:]
        return apart @ torch.where(self.used[features:], theta[features:-1] / self.scale[features:], 0.0)

    def likelihood(self, theta: Tensor) -> Tensor:
        """The mean over tasks of the mean log-likelihood of an answer."""
        return self.likelihood_of([torch.einsum("f,ftn->tn", theta[:-1], one) + theta[-1] for one in self.inputs])

    def likelihood_of(self, scores: Sequence[Tensor]) -> Tensor:
        """The same, of the scores ``[T, N]`` of each task."""
        pairs = zip(self.tasks, scores, strict=True)
        return torch.stack([task.log_likelihood(LARGEST * score.sigmoid()).mean() for task, score in pairs]).mean()


def _as_gate(theta: Tensor, problem: Problem, names: Sequence[tuple[str, str]]) -> Gate:
    parts: dict[str, dict[str, GateFeature]] = {"features": {}, "relative": {}}
    *weights, bias = theta.tolist()
    values = zip(weights, problem.mean.tolist(), problem.scale.tolist(), problem.used.tolist(), strict=True)
    for (part, name), (weight, mean, scale, used) in zip(names, values, strict=False):  # then come those of groups
        if used:
            parts[part][name] = GateFeature(weight=_round(weight), mean=_round(mean), scale=_round(scale))
    return Gate(largest=LARGEST, bias=_round(bias), **parts)


def _inputs(task: Grouped, relative: bool, groups: int) -> Tensor:
    """Features, relative ones, and of which group the task is where there are several, ``[.., T, N]``."""
    features = task.evidence.features
    parts = [features, make_relative(features)] if relative else [features]
    if groups > 1:
        told = torch.eye(groups, dtype=features.dtype)[task.group]
        parts.append(told[:, None, None].expand(-1, *features.shape[1:]))
    return torch.cat(parts)


def _round(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
