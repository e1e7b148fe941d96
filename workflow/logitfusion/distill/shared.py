"""The tokens that a teacher's vocabulary has in common with its student's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SharedTokens:
    """The tokens of a teacher that its student has as well.

    Attributes:
        places: the student's token for each of the teacher's, ``[V_t]`` int64, -1 where it has none; as long as the
            teacher's logits are wide, no token of the student twice.

    Raises:
        ValueError: a token of the student twice.
    """

    places: Tensor

    def __post_init__(self) -> None:
        found = self.student
        if len(found.unique()) != len(found):
            raise ValueError("two tokens of the teacher are one of the student's")

    @property
    def student(self) -> Tensor:
        """The shared tokens by the student's numbers, ``[M]`` int64, in the teacher's order."""
        return self.places[self.places >= 0]

    @property
    def teacher(self) -> Tensor:
        """By the teacher's, ascending, ``[M]`` int64."""
        return (self.places >= 0).nonzero()[:, 0]

    @property
    def share(self) -> float:
        """Of the teacher's vocabulary."""
        return len(self.student) / len(self.places)

    def to(self, device: torch.device) -> SharedTokens:
        """On a device."""
        return self if self.places.device == device else SharedTokens(self.places.to(device))
