"""Which method to take: the methods that apply, judged on support images that are left out of each fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from logitfusion.clip.heads import Support

CLIP_ALONE = "zero_shot"


@dataclass(frozen=True)
class Difference:
    """A method's accuracy minus another's on the same images, with a paired 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Score:
    """One method's left-out accuracy.

    Attributes:
        method: its name.
        right: images that were answered rightly, of ``Comparison.n``.
        accuracy: with Wilson's 95% interval ``low`` to ``high``.
        against_clip, against_best: paired differences to CLIP alone, and to the method with the most right answers.
    """

    method: str
    right: int
    accuracy: float
    low: float
    high: float
    against_clip: Difference
    against_best: Difference


@dataclass(frozen=True)
class Comparison:
    """Methods on the same left-out images.

    Attributes:
        n: images that every method has answered without having learnt from them; 0: nothing could be left out.
        scores: of each method, in the order of lists; empty where n is 0.
        recommended: the method to take; None where n is 0.
        left_out: methods that were not tried -> why.
    """

    n: int
    scores: tuple[Score, ...]
    recommended: str | None
    left_out: dict[str, str]

    def dump(self) -> dict[str, Any]:
        """As a head file keeps it."""
        return asdict(self)

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> Self:
        raise NotImplementedError


def compare_methods(support: Support, names: Sequence[str], *, seed: int) -> Comparison:
    raise NotImplementedError
