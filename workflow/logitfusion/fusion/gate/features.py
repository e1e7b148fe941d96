"""What a gate sees of a token: how sure the models are, and how far they are apart.

Every feature is a number of an expert that does not change when a constant is added to a model's logits or when the
vocabulary is permuted. The sums over the vocabulary are those of the divergences that a search needs as well, so all
features cost about as much as the search that they replace.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import torch
from torch import Tensor

from logitfusion.config.gate import FeatureName

# Entries of a model that a CPU works on at a time: what is made of them stays in its cache.
_BLOCK = 131_072


@dataclass(frozen=True)
class Predicted:
    """A model's log-probabilities ``[..., V]``; an entry that takes no part has log-probability 0 and probability 0."""

    logs: Tensor
    probabilities: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> Predicted:
        logs = logits.log_softmax(-1)
        probabilities = logs.exp()
        return cls(logs.masked_fill_(logs == -torch.inf, 0.0) if logs.amin() == -torch.inf else logs, probabilities)

    @cached_property
    def best(self) -> tuple[Tensor, Tensor]:
        """The two greatest probabilities and their tokens, ``[..., 2]``; of one token the other has probability 0."""
        found, tokens = self.probabilities.topk(min(2, self.logs.shape[-1]), dim=-1)
        return torch.nn.functional.pad(found, (0, 2 - found.shape[-1])), tokens

    @cached_property
    def token(self) -> Tensor:
        """The likeliest token ``[...]``."""
        return self.best[1][..., 0]

    def expect(self, other: Predicted) -> Tensor:
        """The mean of another model's log-probabilities ``[...]`` under this one."""
        return torch.linalg.vecdot(self.probabilities, other.logs)

    @cached_property
    def negative_entropy(self) -> Tensor:
        return self.expect(self)

    def divergence(self, other: Predicted) -> Tensor:
        """``KL(self || other)`` in nats, ``[...]``."""
        return (self.negative_entropy - self.expect(other)).clamp(min=0)

    def of_token(self, token: Tensor) -> Tensor:
        """Log-probability ``[...]`` of a token ``[...]``."""
        return self.logs.gather(-1, token[..., None])[..., 0]


def large_entropy(large: Predicted, base: Predicted, expert: Predicted) -> Tensor:
    """Of the large model's prediction, in nats."""
    return -large.negative_entropy


def expert_entropy(large: Predicted, base: Predicted, expert: Predicted) -> Tensor:
    """Of the expert's prediction, in nats."""
    return -expert.negative_entropy


def large_top(large: Predicted, base: Predicted, expert: Predicted) -> Tensor:
    """The large model's probability of its likeliest token."""
    return large.best[0][..., 0]


def expert_top(large: Predicted, base: Predicted, expert: Predicted) -> Tensor:
    """The expert's probability of its likeliest token."""
    return expert.best[0][..., 0]


def large_margin(large: Predicted, base: Predicted, expert: Predicted) -> Tensor:
    """The large model's probability of its likeliest token, less that of the next."""
    return large.best[0][..., 0] - large.best[0][..., 1]


def expert_margin(large: Predicted, base: Predicted, expert: Predicted) -> Tensor:
    """The expert's probability of its likeliest token, less that of the next."""
    return expert.best[0][..., 0] - expert.best[0][..., 1]


def same_token(large: Predicted, base: Predicted, expert: Predicted) -> Tensor:
    """1 where the large model and the expert find the same token likeliest, else 0."""
    return (large.token == expert.token).float()


def large_of_expert(large: Predicted, base: Predicted, expert: Predicted) -> Tensor:
    """The large model's log-probability of the expert's token."""
    return large.of_token(expert.token)


def expert_of_large(large: Predicted, base: Predicted, expert: Predicted) -> Tensor:
    """The expert's log-probability of the large model's token."""
    return expert.of_token(large.token)


def expert_from_base(large: Predicted, base: Predicted, expert: Predicted) -> Tensor:
    """``log(1 + KL(expert || base))``: how much the expert learned about this token."""
    return expert.divergence(base).log1p()


def base_from_expert(large: Predicted, base: Predicted, expert: Predicted) -> Tensor:
    """``log(1 + KL(base || expert))``."""
    return base.divergence(expert).log1p()


def expert_from_large(large: Predicted, base: Predicted, expert: Predicted) -> Tensor:
    """``log(1 + KL(expert || large))``."""
    return expert.divergence(large).log1p()


def large_from_expert(large: Predicted, base: Predicted, expert: Predicted) -> Tensor:
    """``log(1 + KL(large || expert))``."""
    return large.divergence(expert).log1p()


FEATURES = {name: globals()[name] for name in get_args(FeatureName)}


def measure(large: Tensor, base: Tensor, shift: Tensor) -> Tensor:
    """All features of every expert.

    Args:
        large, base: logits ``[n, V]`` fp32, -inf where an entry takes no part.
        shift: ``expert - base`` of every expert, ``[T, n, V]``, 0 where an entry takes no part.

    Returns:
        ``[F, T, n]``, in the order of ``FEATURES``.
    """
    rows, vocabulary = large.shape
    height = max(1, _BLOCK // vocabulary) if large.device.type == "cpu" else max(1, rows)
    blocks = [slice(start, start + height) for start in range(0, max(rows, 1), height)]
    return torch.cat([_measure(large[block], base[block], shift[:, block]) for block in blocks], dim=-1)


def _measure(large: Tensor, base: Tensor, shift: Tensor) -> Tensor:
    one, other = Predicted.of(large), Predicted.of(base)
    experts = [Predicted.of(base + direction) for direction in shift]
    return torch.stack([torch.stack([find(one, other, expert) for expert in experts]) for find in FEATURES.values()])
