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


def fit(tasks: Sequence[Evidence], ridge: float) -> Gate:
    """The gate that maximises the mean log-likelihood of an answer, less ``ridge / 2 * |theta|^2``.

    Every task counts as much, however many answers it has. Features are standardised over all tokens, so one ridge
    means the same for all of them.

    Args:
        tasks: evidence of each; they may have different numbers of experts.
        ridge: in nats.
    """
    return fit_path(tasks, [ridge])[0]


def fit_path(tasks: Sequence[Evidence], ridges: Sequence[float]) -> list[Gate]:
    """A gate for each ridge, as ``fit`` finds it; each search begins where the last one ended."""
    relative = any(task.experts > 1 for task in tasks)
    problem = Problem.of(tasks, [_inputs(task, relative) for task in tasks])
    theta = torch.zeros(len(problem.mean) + 1, dtype=torch.float64)  # the last is the bias
    names = [(part, name) for part in (["features", "relative"] if relative else ["features"]) for name in FEATURES]
    gates = []
    for ridge in ridges:
        theta = problem.maximise(theta, ridge)
        gates.append(_as_gate(theta, problem, names))
    return gates


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
    values = zip(weights, problem.mean.tolist(), problem.scale.tolist(), strict=True)
    for (part, name), (weight, mean, scale), used in zip(names, values, problem.used.tolist(), strict=True):
        if used:
            parts[part][name] = GateFeature(weight=_round(weight), mean=_round(mean), scale=_round(scale))
    return Gate(largest=LARGEST, bias=_round(bias), **parts)


def _inputs(task: Evidence, relative: bool) -> Tensor:
    """Features and relative ones, ``[F or 2 F, T, N]``."""
    return torch.cat([task.features, make_relative(task.features)]) if relative else task.features


def _round(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
