"""What a student is trained on: the objective of distillation, for the config, the trainer and the losses alike."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from logitfusion.config.section import Count, Listed, NonNegative, Positive, Section, Share

Nodes = Literal["vocab", "rank"]
Signal = Literal["logprob", "prob"]
Combine = Literal["sum", "weighted", "min_ce"]
Alignment = Literal["bytes", "positions"]
Divergence = Literal["forward", "reverse", "jsd"]


class Objective(Section):
    """``(1 - uld - gld - kl) SFT + uld ULD + gld GLD + kl KL`` over the teachers (InfiGFusion, arXiv 2505.13893).

    How the paper splits lambda over the two terms, and its k, are not published.
    """

    uld: Share = 0.0
    """Lambda of the token term, sorted L1 of each position."""
    gld: Share = 0.0
    """Lambda of the graph term; what the factors leave is SFT's."""
    kl: Share = 0.0
    """Lambda of the divergence of each token, for teachers that have the student's own vocabulary."""
    divergence: Divergence = "forward"
    """Of the term kl: forward (of the student from the teacher), reverse, or jsd (Jensen-Shannon)."""
    temperature: Positive = 1.0
    """Of both sides in the term kl, which is not multiplied by its square."""
    k: Count = 10
    """Entries of each position in the terms uld and gld, at most cache.k; kl takes all that a cache holds."""
    nodes: Nodes = "vocab"
    """Nodes of the graph: vocabulary channels, or ranks (as drawn in the paper)."""
    signal: Signal = "prob"
    """Signal of the graph. A token outside the top-k has signal 0, which as a logprob means probability 1."""
    combine: Combine = "sum"
    """How several teachers count: sum, sum weighted by weights, or for each text the one of least cross-entropy."""
    weights: Listed[NonNegative] | None = None
    """Of the teachers, with combine: weighted."""
    alignment: Alignment = "bytes"
    """Positions of student and teacher are paired by the bytes that tokens cover, or one by one (as published)."""

    @model_validator(mode="after")
    def _check_together(self) -> Objective:
        if self.uld + self.gld + self.kl > 1:
            message = "has factors uld, gld and kl that come to more than 1, which leaves nothing for SFT"
            raise PydanticCustomError("cross", message)
        if (self.combine == "weighted") != (self.weights is not None):
            message = "needs both combine: weighted and a list of weights, or neither"
            raise PydanticCustomError("cross", message)
        return self
