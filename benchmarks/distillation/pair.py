"""A made-up text that a student and a teacher cut into tokens each in its own way, for losses that are compared.

Logits as in ``distillation.problem``; each label is drawn from its model's own distribution, as in a model's own text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from distillation.problem import NOISE, SHARED
from logitfusion.distill import Predictions, predict
from logitfusion.distill.alignment import align
from logitfusion.distill.shared import SharedTokens

BYTES, COMMON, BOTH = 4, 0.7, 0.8  # bytes a token, shares of ends and of tokens that both have


@dataclass(frozen=True)
class Pair:
    """One text of L tokens on both sides.

    Attributes:
        student, teacher: logits ``[1, L + 1, V]``, the student's with a gradient.
        labels, teacher_labels: ``[1, L + 1]``; the first is -100, as a prompt's.
        ends, teacher_ends: the byte where each of the L tokens ends.
        k: of what a cache would hold.
    """

    student: Tensor
    teacher: Tensor
    labels: Tensor
    teacher_labels: Tensor
    ends: list[int]
    teacher_ends: list[int]
    k: int

    @classmethod
    def make(cls, positions: int, vocabulary: int, k: int, device: torch.device) -> Pair:
        generator = torch.Generator().manual_seed(0)
        level = SHARED * torch.randn(vocabulary, generator=generator)
        sides, labels = [], []
        for _ in range(2):
            logits = NOISE * torch.randn(1, positions + 1, vocabulary, generator=generator) + level
            drawn = logits[0, :-1].softmax(-1).multinomial(1, generator=generator).T
            sides.append(logits.to(device))
            labels.append(torch.nn.functional.pad(drawn, (1, 0), value=-100).to(device))
        ends = _cut(positions, generator)
        return cls(sides[0].requires_grad_(), sides[1], *labels, ends, _cut(positions, generator, ends), k)

    @property
    def positions(self) -> int:
        return len(self.ends)

    @cached_property
    def groups(self) -> Tensor:
        return align(self.ends, self.teacher_ends)

    @cached_property
    def cached(self) -> Predictions:
        return predict(self.teacher, self.teacher_labels, self.k)

    @cached_property
    def tail(self) -> Tensor:
        return (1 - self.cached.log_probs.exp().sum(-1)).clamp(min=0)

    @cached_property
    def shared(self) -> SharedTokens:
        """The first of both vocabularies."""
        vocabulary = self.teacher.shape[-1]
        places = torch.arange(vocabulary, device=self.teacher.device)
        return SharedTokens(places.masked_fill(places >= BOTH * vocabulary, -1))


def _cut(tokens: int, generator: torch.Generator, others: list[int] | None = None) -> list[int]:
    """Ends of so many tokens; with others', some of them are the same."""
    last = BYTES * tokens
    weights = torch.ones(last)
    weights[0] = 0
    ends = others[:-1] if others else []
    kept = [ends[place] for place in torch.randperm(len(ends), generator=generator)[: int(COMMON * len(ends))].tolist()]
    weights[kept] = 0
    count = tokens - 1 - len(kept)
    drawn = weights.multinomial(count, generator=generator).tolist() if count else []
    return [*sorted(kept + drawn), last]
