"""A student and one of its teachers on a batch of texts, compared at the positions that belong together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from logitfusion.config.objective import Divergence
from logitfusion.distill.alignment import SIDES, check_groups, group_factors, pair_in_order
from logitfusion.distill.divergence import divergence_of_logits, divergence_of_tops
from logitfusion.distill.hybrid import MergedLogits, MergedTops, hybrid_loss
from logitfusion.distill.predictions import IGNORED, Predictions, shift_labels
from logitfusion.distill.shared import SharedTokens
from logitfusion.distill.sorted_l1 import SortedL1
from logitfusion.distill.terms import uld_of_predictions


@dataclass(frozen=True)
class Teacher:
    """One teacher's logits of a batch of texts, in its own tokens.

    Attributes:
        logits: ``[B, L', V_t]``, any float type.
        labels: ``[B, L']`` int64, the token of each position, -100 outside the response; ``labels[:, t]`` belongs to
            ``logits[:, t - 1]``, as in transformers.
        weight: its share where ``combine="weighted"``.
        groups, shared: see ``CachedTeacher``.
    """

    logits: Tensor
    labels: Tensor
    weight: float = 1.0
    groups: Tensor | None = None
    shared: SharedTokens | None = None


@dataclass(frozen=True)
class CachedTeacher:
    """One teacher's predictions of a batch of texts, read from its cache.

    Attributes:
        predictions: of the same B texts.
        groups: positions of student and teacher that belong together, ``[G, 4]`` int64 as
            ``logitfusion.distill.alignment.align`` gives them, but counted over the whole batch (student's first and
            last, teacher's first and last); None pairs them in order and cuts the longer text (the published fallback).
        weight: its share where ``combine="weighted"``.
        tail: the probability of all tokens beyond those of the predictions, ``[N]``; None for what these leave of 1.
        shared: the tokens that the student has as well, for the hybrid term.
        vocabulary: the width of the teacher's logits, for KL with a student of another; None for the student's.
    """

    predictions: Predictions
    groups: Tensor | None = None
    weight: float = 1.0
    tail: Tensor | None = None
    shared: SharedTokens | None = None
    vocabulary: int | None = None


@dataclass(frozen=True, eq=False)
class Comparison:
    """The terms of each text, ``[B]``, that are of positions: sums over a text's groups, or with ``means`` their means.

    Attributes:
        student: raw logits ``[B, L, V_s]``.
        labels: ``[B, L]`` int64.
        ours, theirs: the predictions of both sides.
        teacher: whose these are.
        mask: ``[B]`` bool, texts that count; the others' terms are 0.
        means: whether terms are divided by the number of groups that they are of.
    """

    student: Tensor
    labels: Tensor
    ours: Predictions
    teacher: Teacher | CachedTeacher
    theirs: Predictions
    mask: Tensor
    means: bool = False

    @cached_property
    def groups(self) -> Tensor:
        """The groups of positions of the texts that count."""
        ours, theirs, groups = self.ours, self.theirs, self.teacher.groups
        groups = pair_in_order(ours.counts, theirs.counts) if groups is None else groups
        for side, predictions in zip(SIDES, (ours, theirs), strict=True):
            check_groups(groups, side, len(predictions.ids))
        return groups[self.mask[ours.texts[groups[:, 1]]]]

    def uld(self, k: int | None) -> Tensor:
        """Sorted L1 over the top-k, or over whole vocabularies without k."""
        if k is not None:
            return self._normalised(uld_of_predictions(self.ours, self.theirs, self.groups, k=k), self.groups)
        if isinstance(self.teacher, CachedTeacher):
            raise ValueError("a teacher's cache holds no whole vocabularies: give uld_k")
        pairs = torch.cat([self._places(self.groups), self._teacher_places(self.groups)[:, 1:]], dim=1)
        losses = SortedL1.apply(self.student, self.teacher.logits.detach(), pairs, torch.stack(self._factors, dim=1))
        return self._by_text(losses, self.groups)

    def kl(self, form: Divergence, temperature: float) -> Tensor:
        """The divergence of positions that one token of either side stands for."""
        groups = self.groups
        groups = groups[(groups[:, 0] == groups[:, 1]) & (groups[:, 2] == groups[:, 3])]
        if isinstance(self.teacher, CachedTeacher):
            kept, width = self._kept(groups), self.teacher.vocabulary
            losses = divergence_of_tops(self.student, self._places(groups), *kept, form, temperature, width)
        else:
            others = self.teacher.logits, self._teacher_places(groups)
            losses = divergence_of_logits(self.student, self._places(groups), *others, form, temperature)
        return self._by_text(losses, groups)

    def hybrid(self, form: Divergence, weight: float | None) -> Tensor:
        """The divergence on shared tokens and the sorted L1 on the others, see ``distill.hybrid``."""
        if self.teacher.shared is None:
            raise ValueError("the hybrid term needs the tokens that student and teacher share: give each teacher's")
        groups, (ours, theirs) = self.groups, self._factors
        if isinstance(self.teacher, CachedTeacher):
            other: MergedLogits | MergedTops = MergedTops(*self._kept(groups), theirs)
        else:
            other = MergedLogits(self.teacher.logits, self._teacher_places(groups), theirs)
        own = MergedLogits(self.student, self._places(groups), ours)
        return self._by_text(hybrid_loss(own, other, self.teacher.shared, form, weight), groups)

    @property
    def _factors(self) -> list[Tensor]:
        """The logarithms of what the last distribution of each group is multiplied by, on both sides."""
        sides = zip((self.ours, self.theirs), SIDES, strict=True)
        found = [group_factors(side.label_log_probs, self.groups, name) for side, name in sides]
        return [factors.to(self.ours.log_probs.dtype) for factors in found]

    def _kept(self, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the cache has of each group's last position: log-probabilities, tokens and tail."""
        log_probs, last = self.theirs.log_probs, groups[:, 3]
        tail = self.teacher.tail
        tail = (1 - log_probs.exp().sum(-1)).clamp(min=0) if tail is None else tail
        return log_probs[last], self.theirs.ids[last], tail[last]

    def _places(self, groups: Tensor) -> Tensor:
        """Text and position of each group's last of the student, ``[G, 2]``."""
        return _labelled(self.labels)[groups[:, 1]]

    def _teacher_places(self, groups: Tensor) -> Tensor:
        return _labelled(self.teacher.labels)[groups[:, 3]]

    def _by_text(self, losses: Tensor, groups: Tensor) -> Tensor:
        texts = self.ours.texts[groups[:, 1]]
        return self._normalised(losses.new_zeros(len(self.mask)).index_add(0, texts, losses), groups)

    def _normalised(self, sums: Tensor, groups: Tensor) -> Tensor:
        if not self.means:
            return sums
        return sums / self.ours.texts[groups[:, 1]].bincount(minlength=len(sums)).clamp(min=1)


def _labelled(labels: Tensor) -> Tensor:
    """Text and position of each prediction, ``[N, 2]``."""
    return (shift_labels(labels) != IGNORED).nonzero()
