"""AdamW with a cosine on one matrix, without what makes torch's own slow for small ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch with one thread: steps of microseconds wait longer for a second one than it saves, above all if it is busy.

    Also a decorator.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class AdamW:
    """Decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), the numbers of ``torch.optim.AdamW`` under
    ``CosineAnnealingLR`` with a step per batch: the rate of step t (from 0) is ``rate (1 + cos(pi t / steps)) / 2``.

    Args:
        weight: changed in place by ``step``.
        steps: in all, over which the rate falls to 0.
    """

    def __init__(
        self, weight: Tensor, *, steps: int, learning_rate: float, weight_decay: float, epsilon: float
    ) -> None:
        self.weight, self.steps, self.rate, self.decay, self.epsilon = (
            weight,
            steps,
            learning_rate,
            weight_decay,
            epsilon,
        )
        self.mean, self.square = torch.zeros_like(weight), torch.zeros_like(weight)
        self.done = 0

    def step(self, gradient: Tensor, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        rate = self.rate * (1.0 + math.cos(math.pi * self.done / self.steps)) / 2.0
        self.done += 1
        self.mean.lerp_(gradient, 1.0 - betas[0])
        self.square.mul_(betas[1]).addcmul_(gradient, gradient, value=1.0 - betas[1])
        # epsilon is added to sqrt(square / correction): both sides are multiplied by the root of the correction.
        root = math.sqrt(1.0 - betas[1] ** self.done)
        spread = self.square.sqrt().add_(self.epsilon * root)
        self.weight.mul_(1.0 - rate * self.decay)
        self.weight.addcdiv_(self.mean, spread, value=-rate * root / (1.0 - betas[0] ** self.done))
