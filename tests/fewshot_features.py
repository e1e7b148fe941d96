"""Made-up cached features: Gaussians about a direction for each class, for the few-shot tests."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from logitfusion.clip import Support
from logitfusion.clip.methods import METHODS

DEFAULTS = {name: method.Settings().dump() for name, method in METHODS.items()}
GRIDS = {name: method.grid for name, method in METHODS.items() if method.grid}
NEED_AUXILIARY = [name for name, method in METHODS.items() if method.needs_auxiliary]
BY_EPOCHS = [name for name, method in METHODS.items() if method.by_epochs]


class Problem(NamedTuple):
    support: Support
    clip: Tensor
    auxiliary: Tensor
    labels: Tensor

    def accuracy(self, head: object) -> float:
        return float((head.logits(self.clip, self.auxiliary).argmax(-1) == self.labels).double().mean())


def make_problem(
    *,
    classes: int = 10,
    shots: int | tuple[int, ...] = 4,
    views: int = 3,
    widths: tuple[int, int] = (64, 48),
    noise: tuple[float, float] = (2.0, 2.0),
    text_noise: float = 2.0,
    test: int = 0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Problem:
    """Features ``unit(class direction + one common direction + noise)``; ``noise`` of CLIP and of the auxiliary.

    ``shots`` may be one number for each class. Text embeddings are the class directions with ``text_noise``.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) / shape[-1] ** 0.5

    counts = torch.tensor(shots if isinstance(shots, tuple) else (shots,) * classes)
    labels, tested = torch.arange(classes).repeat_interleave(counts), torch.arange(classes).repeat_interleave(test)
    drawn = []
    for width, size in zip(widths, noise, strict=True):
        directions, common = normalize(normal(classes, width), dim=-1), normalize(normal(1, width), dim=-1)
        base = directions[labels] + common + size * normal(len(labels), width)
        shaken = base[:, None] + 0.3 * size * normal(len(labels), views, width) * (torch.arange(views) > 0)[:, None]
        others = directions[tested] + common + size * normal(len(tested), width)
        drawn.append((directions, *(normalize(part, dim=-1).to(dtype) for part in (shaken, others))))
    text = normalize(drawn[0][0] + text_noise * normal(classes, widths[0]), dim=-1).T.to(dtype)
    (_, clip, clip_test), (_, auxiliary, auxiliary_test) = drawn
    return Problem(Support(clip, auxiliary, labels, text), clip_test, auxiliary_test, tested)
