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
Normalisation = Literal["labels", "texts"]
# The terms that teachers have a part in, by the names of their factors.
TERMS = ("uld", "gld", "kl", "hybrid")


class Objective(Section):
    """``(1 - uld - gld - kl - hybrid) SFT + uld ULD + gld GLD + kl KL + hybrid HYBRID`` over the teachers.

    After InfiGFusion (arXiv 2505.13893), which has the first three.
    How the paper splits lambda over the two terms, and its k, are not published.
    """

    uld: Share = 0.0
    """Lambda of the token term, sorted L1 of each position."""
    gld: Share = 0.0
    """Lambda of the graph term; what the factors leave is SFT's."""
    kl: Share = 0.0
    """Lambda of the divergence of each token, for teachers that have the student's own vocabulary."""
    hybrid: Share = 0.0
    """Lambda of the divergence on tokens that both vocabularies have and the sorted L1 on the others (TRL's GOLD)."""
    divergence: Divergence = "forward"
    """Of the terms kl and hybrid: forward (of the student from the teacher), reverse, or jsd (Jensen-Shannon)."""
    temperature: Positive = 1.0
    """Of both sides in the term kl, which is not multiplied by its square."""
    shared_weight: Share | None = None
    """Of the divergence in the term hybrid, whose sorted L1 has the rest; null: the share of tokens that are shared."""
    normalisation: Normalisation = "labels"
    """The terms uld, kl and hybrid are divided by the student's labels, or are means of each text and then of texts."""
    k: Count = 10
    """Entries of each position in the terms uld and gld, at most cache.k; kl and hybrid take all that a cache holds."""
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
    on_policy: Share = 0.0
    """Chance of a step that the student answers its prompts itself, for online teachers to judge (GKD); without SFT."""
    new_tokens: Count = 128
    """Tokens of such an answer, at most, drawn from the student at temperature 1."""

    @property
    def taught(self) -> float:
        """What the teachers' terms have of 1."""
        return sum(getattr(self, term) for term in TERMS)

    @property
    def entries(self) -> int:
        """Of each position, those that must be known: the terms kl and hybrid take whatever a cache holds."""
        return self.k if self.uld or self.gld else 1

    @model_validator(mode="after")
    def _check_together(self) -> Objective:
        if self.taught > 1:
            message = "has factors uld, gld, kl and hybrid that come to more than 1, which leaves nothing for SFT"
            raise PydanticCustomError("cross", message)
        if self.on_policy and not self.taught:
            raise PydanticCustomError("cross", "is for teachers' terms, and there are none", {"key": "on_policy"})
        if (self.combine == "weighted") != (self.weights is not None):
            message = "needs both combine: weighted and a list of weights, or neither"
            raise PydanticCustomError("cross", message)
        if self.weights and not any(self.weights):
            raise PydanticCustomError("cross", "are all 0, which leaves out every teacher", {"key": "weights"})
        return self
