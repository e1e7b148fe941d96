"""What methods that are trained in minibatches share: the order of images, and AdamW on a gradient at hand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from logitfusion.clip.methods.base import AdamWSettings


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch with one thread: a step of microseconds would wait longer for a second one than it saves."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def schedule(count: int, views: int, epochs: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """For each epoch an order of the images and the view of each, ``[n]`` and ``[n]``, seeded.

    Views are drawn among the random augmentations; the plain view 0 is used only if it is the one there is.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator)
        view = torch.randint(1, views, (count,), generator=generator) if views > 1 else torch.zeros_like(order)
        yield order, view


def split(parts: Sequence[Tensor], size: int) -> Iterator[tuple[Tensor, ...]]:
    """Minibatches of tensors that have the same images in the same order."""
    return zip(*(part.split(size) for part in parts), strict=True)


class AdamW:
    """Torch's fused AdamW (Loshchilov and Hutter, arXiv 1711.05101) as a function of a gradient that autograd did not
    make, under ``CosineAnnealingLR`` with a step per batch: the rate of step t (from 0) is
    ``rate (1 + cos(pi t / steps)) / 2``.

    Args:
        weight: a matrix, changed in place by ``step``.
        steps: in all, over which the rate falls to 0.
    """

    def __init__(
        self, weight: Tensor, *, steps: int, learning_rate: float, weight_decay: float, epsilon: float
    ) -> None:
        self.weight, self.steps, self.epsilon = weight, steps, epsilon
        self.rate, self.decay = learning_rate, weight_decay
        self.mean, self.square = torch.zeros_like(weight), torch.zeros_like(weight)
        self.done, self.count = 0, torch.zeros((), device=weight.device)

    @classmethod
    def of(cls, weight: Tensor, settings: AdamWSettings, *, count: int) -> AdamW:
        """The optimizer of a method's settings on a support set of ``count`` images."""
        return cls(
            weight,
            steps=settings.epochs * math.ceil(count / settings.batch),
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            epsilon=settings.epsilon,
        )

    def step(self, gradient: Tensor) -> None:
        """One step along the gradient, of the weight's shape."""
        rate = self.rate * (1.0 + math.cos(math.pi * self.done / self.steps)) / 2.0
        self.done += 1
        if gradient.stride() != self.weight.stride():  # the fused kernel takes them as they lie in memory
            gradient = torch.empty_like(self.weight).copy_(gradient)
        adamw(
            [self.weight],
            [gradient],
            [self.mean],
            [self.square],
            [],
            [self.count],
            fused=True,
            amsgrad=False,
            maximize=False,
            beta1=0.9,
            beta2=0.999,
            lr=rate,
            weight_decay=self.decay,
            eps=self.epsilon,
        )
