"""Fitting a gate: the likelihood of right answers, with a ridge."""

from __future__ import annotations

from collections.abc import Sequence

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
    relative = any(task.experts > 1 for task in tasks)
    inputs = [_inputs(task, relative) for task in tasks]
    flat = torch.cat([given.flatten(1) for given in inputs], dim=1)
    mean, scale = flat.mean(1), flat.std(1, correction=0)
    used = scale > 1e-6 * (1 + mean.abs())  # others say nothing
    mean, scale = mean[used], scale[used]
    inputs = [(given[used] - mean[:, None, None]) / scale[:, None, None] for given in inputs]
    theta = torch.zeros(len(mean) + 1, dtype=torch.float64, requires_grad=True)  # the last is the bias
    optimizer = torch.optim.LBFGS(
        [theta], max_iter=200, tolerance_grad=1e-7, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        means = []
        for task, given in zip(tasks, inputs, strict=True):
            score = torch.einsum("f,ftn->tn", theta[:-1], given) + theta[-1]
            means.append(task.log_likelihood(LARGEST * score.sigmoid()).mean())
        loss = ridge / 2 * theta[:-1].square().sum() - torch.stack(means).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    *weights, bias = theta.detach().tolist()
    values = zip(weights, mean.tolist(), scale.tolist(), strict=True)
    found = iter([GateFeature(weight=_round(w), mean=_round(m), scale=_round(s)) for w, m, s in values])
    names = [(part, name) for part in (["features", "relative"] if relative else ["features"]) for name in FEATURES]
    parts: dict[str, dict[str, GateFeature]] = {"features": {}, "relative": {}}
    for (part, name), there in zip(names, used.tolist(), strict=True):
        if there:
            parts[part][name] = next(found)
    return Gate(largest=LARGEST, bias=_round(bias), **parts)


def judge(gate: Gate, task: Evidence) -> Tensor:
    """Log-likelihood of each answer as a gate steers, ``[answers]``."""
    return task.log_likelihood(gate.largest * find_score(gate, task.features).sigmoid())


def _inputs(task: Evidence, relative: bool) -> Tensor:
    """Features and relative ones, ``[F or 2 F, T, N]``."""
    return torch.cat([task.features, make_relative(task.features)]) if relative else task.features


def _round(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
