"""Multinomial logistic regression for any number of classes: full-batch L-BFGS on the device of the features."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad


def minimise(loss: Callable[[Tensor], Tensor], start: Tensor, *, iterations: int, tolerance: float = 1e-4) -> Tensor:
    """Where a smooth loss is least, by torch's L-BFGS with a strong Wolfe line search from ``start``.

    Args:
        loss: of a tensor of the shape of ``start``, a scalar.
        iterations: at most.
        tolerance: of the gradient's largest part, at which it stops.
    """
    found = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [found],
        max_iter=iterations,
        tolerance_grad=tolerance,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(found)
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)
    return found.detach()


def regress(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    inverse_penalty: float,
    iterations: int,
    start: tuple[Tensor, Tensor] | None = None,
    on_evaluation: Callable[[], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Weight ``[D, C]`` and bias ``[C]`` of a penalised multinomial logistic regression.

    The bias is the weight of a constant 1 and penalised as the others are, so a class without an image has a finite
    one: an unlikely answer, not an impossible one.

    Args:
        features: ``[n, D]``.
        labels: ``[n]`` int64, from 0 to C - 1.
        inverse_penalty: scikit-learn's C: the loss of an image, relative to half the squared norm of the weights.
        iterations: of L-BFGS, at most.
        start: weight and bias to start at; 0 without. The minimum does not depend on it.
        on_evaluation: called whenever the loss has been worked out, once or twice an iteration.
    """
    rows = pad(features, (0, 1), value=1.0)
    strength = 1.0 / (inverse_penalty * len(rows))

    def loss(weight: Tensor) -> Tensor:
        if on_evaluation is not None:
            on_evaluation()
        return cross_entropy(rows @ weight, labels) + strength * weight.square().sum() / 2.0

    # At the start a class's gradient is of size 1 / C, so a fixed tolerance would end 1,000 classes before they begin.
    tolerance = 1e-3 / max(classes, 10)
    first = rows.new_zeros(rows.shape[1], classes) if start is None else torch.cat([start[0], start[1][None]])
    weight = minimise(loss, first, iterations=iterations, tolerance=tolerance)
    return weight[:-1], weight[-1]
