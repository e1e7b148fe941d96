"""Tokens that two vocabularies share are compared by name, the others by rank.

The hybrid loss of TRL's GOLD trainer (``trl.experimental.gold``, ``uld_use_hybrid_loss``): of a pair of merged
positions, ``w D(q_M, p_M) + (1 - w) sum_i |p_U(i) - q_U(i)|``, where M are the shared tokens, U each side's others,
sorted, and w is the share of the teacher's vocabulary that is in M. Unlike there,

* D is the objective's divergence of measures (``divergence.diverge_measures``), as probabilities of M need not sum to
  1. For ``"jsd"``, GOLD's default, that is the same;
* tokens are shared where they stand for the same bytes, however the vocabularies spell them (``distill.shared``);
* probabilities are not held above 1e-8;
* where all tokens of one side are shared, the sorted part is the sum of the other side's others, and not 0.

From a cache, the teacher's tail is one more entry of M, which stands for all shared tokens that it does not name. So
the sorted part lacks the tail's tokens of U, at most the tail; and with ``"jsd"`` the other part is wrong by at most
``ln(2) / 2`` times both sides' probabilities of that entry.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from logitfusion.config.objective import Divergence
from logitfusion.distill.divergence import diverge_measures, log_sum
from logitfusion.distill.recomputed import recomputed
from logitfusion.distill.shared import SharedTokens
from logitfusion.distill.sorted_l1 import SortedL1OfRows


@dataclass(frozen=True, eq=False)
class MergedLogits:
    """N groups of positions of one side, each of which its last distribution stands for.

    Attributes:
        logits: raw, ``[B, L, V]``.
        places: text and position of each group's last, ``[N, 2]`` int64.
        factors: the logarithm of what its probabilities are multiplied by, ``[N]`` (``alignment.group_factors``).
    """

    logits: Tensor
    places: Tensor
    factors: Tensor


@dataclass(frozen=True, eq=False)
class MergedTops:
    """The same from a cache.

    Attributes:
        log_probs, ids: ``[N, k]``, largest first.
        tail: the probability of all others, ``[N]``.
        factors: see ``MergedLogits``.
    """

    log_probs: Tensor
    ids: Tensor
    tail: Tensor
    factors: Tensor


def hybrid_loss(
    student: MergedLogits,
    teacher: MergedLogits | MergedTops,
    shared: SharedTokens,
    form: Divergence,
    weight: float | None = None,
) -> Tensor:
    """The hybrid loss of each of N pairs of groups, ``[N]``; no gradient flows to the teacher.

    Args:
        form: ``"forward"``, ``"reverse"`` or ``"jsd"``.
        weight: of the divergence, between 0 and 1, the sorted part having the rest; None for the share of the teacher's
            tokens that the student has.

    Raises:
        ValueError: tokens that are not the models'.
    """
    shared = shared.to(student.logits.device)
    _check(shared, student.logits.shape[-1], teacher)
    weight = shared.share if weight is None else weight
    sides = _of_logits if isinstance(teacher, MergedLogits) else _of_tops

    def losses(rows: Tensor, factors: Tensor, part: slice) -> Tensor:
        (ours, theirs), others = sides(rows, factors, teacher, shared, part)
        return weight * diverge_measures(ours, theirs, form) + (1 - weight) * others

    return recomputed(losses, student.logits, student.places, student.factors)


def _check(shared: SharedTokens, size: int, teacher: MergedLogits | MergedTops) -> None:
    width = len(shared.places)
    if len(shared.student) and int(shared.student.max()) >= size:
        raise ValueError(f"the shared token {int(shared.student.max())} is none of the student's {size}")
    if isinstance(teacher, MergedLogits) and teacher.logits.shape[-1] != width:
        raise ValueError(f"the teacher has {teacher.logits.shape[-1]} tokens, and the shared ones are of {width}")
    if isinstance(teacher, MergedTops) and teacher.ids.numel() and int(teacher.ids.max()) >= width:
        raise ValueError(f"the teacher's token {int(teacher.ids.max())} is none of its {width}")


def _of_logits(
    rows: Tensor, factors: Tensor, teacher: MergedLogits, shared: SharedTokens, part: slice
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Both sides' log-probabilities of shared tokens ``[n, M]``, and the sorted L1 of the others ``[n]``."""
    ours = rows.log_softmax(-1) + factors[:, None]
    with torch.no_grad():
        theirs = teacher.logits[teacher.places[part, 0], teacher.places[part, 1]].to(rows.dtype)
        theirs = theirs.log_softmax(-1) + teacher.factors[part, None].to(rows.dtype)
        rest = theirs[:, shared.places < 0].exp()
    own = ours[:, _not_in(shared.student, rows.shape[1])].exp()
    return (ours[:, shared.student], theirs[:, shared.teacher]), SortedL1OfRows.apply(own, rest)


def _of_tops(
    rows: Tensor, factors: Tensor, teacher: MergedTops, shared: SharedTokens, part: slice
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Of the shared tokens that the cache names and one entry for the others, ``[n, k + 1]``; and the sorted L1."""
    size = rows.shape[1]
    ours = rows.log_softmax(-1) + factors[:, None]
    scale = teacher.factors[part, None].to(rows.dtype)
    theirs, own = teacher.log_probs[part].to(rows.dtype) + scale, shared.places[teacher.ids[part]]
    named = own >= 0
    # Behind the vocabulary is a token of probability 0, in place of those that the student does not have.
    ours = pad(ours, (0, 1), value=-torch.inf)
    places = own.masked_fill(~named, size)
    inside = torch.zeros(size + 1, dtype=torch.bool, device=rows.device).index_fill(0, shared.student, True)
    left = log_sum(ours.masked_fill(~inside, -torch.inf).scatter(1, places, -torch.inf))
    tail = teacher.tail[part, None].to(rows.dtype).log() + scale
    tail = tail.masked_fill(named.sum(-1, keepdim=True) == len(shared.student), -torch.inf)
    pair = (
        torch.cat([ours.gather(1, places), left], dim=1),
        torch.cat([theirs.masked_fill(~named, -torch.inf), tail], dim=1),
    )
    return pair, _sorted_rest(ours[:, ~inside].exp(), theirs.masked_fill(named, -torch.inf).exp())


def _sorted_rest(ours: Tensor, theirs: Tensor) -> Tensor:
    """Sorted L1 ``[n]`` of all of the student's ``[n, U]`` and some of the teacher's ``[n, k]``, the others being 0."""
    top = ours.topk(min(theirs.shape[1], ours.shape[1]), dim=-1).values
    theirs = theirs.sort(-1, descending=True).values
    difference = pad(top, (0, theirs.shape[1] - top.shape[1])) - theirs
    return difference.abs().sum(-1) + ours.sum(-1) - top.sum(-1)


def _not_in(tokens: Tensor, size: int) -> Tensor:
    """True for all of ``size`` tokens but these."""
    return torch.ones(size, dtype=torch.bool, device=tokens.device).index_fill(0, tokens, False)
