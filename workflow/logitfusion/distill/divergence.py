"""Divergences of each position between a student and a teacher whose tokens are the same.

Forward Kullback-Leibler divergence (Hinton et al. 2015, arXiv 1503.02531), reverse (MiniLLM, Gu et al. 2024, arXiv
2306.08543) and Jensen-Shannon (GKD, Agarwal et al. 2024, arXiv 2306.13649, with beta = 1/2), in nats.

From logits, both sides are distributions over the tokens that both have: the larger vocabulary may be the same one with
the padding that models add. From a cache they are over the k tokens that the teacher finds likeliest and one entry
more, all others together (in which a wider teacher's padding is). Merging entries never adds to a divergence, so that
what a cache loses is at least 0, and is exactly the tail's own share: for the forward form ``t KL(q' || p')``, t being
the teacher's probability of the tail and q', p' the two distributions within it; for the reverse form the same with the
student's; for Jensen-Shannon at most ``ln 2`` times the mean of both tails.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from logitfusion.config.objective import Divergence
from logitfusion.distill.recomputed import recomputed
from logitfusion.distill.selection import index_of, working_dtype

# Log-probabilities below count as this: in a mean of two distributions their share is 0 in any precision.
_LOWEST = -1e4


def divergence_of_logits(
    student: Tensor, places: Tensor, teacher: Tensor, teacher_places: Tensor, form: Divergence, temperature: float
) -> Tensor:
    """The divergence of pairs of positions, ``[N]``.

    Args:
        student, teacher: raw logits ``[B, L, V]`` and ``[B, L', V']``; no gradient flows to the teacher.
        places, teacher_places: text and position of each pair, ``[N, 2]`` int64.
        form: ``"forward"``, ``"reverse"`` or ``"jsd"``.
        temperature: both sides' logits are divided by it; the divergence is not multiplied by its square.
    """
    dtype, shared = working_dtype(student.dtype), min(student.shape[-1], teacher.shape[-1])

    def sides(rows: Tensor, part: slice) -> Iterator[Tensor]:
        theirs = teacher.detach()[index_of(teacher_places[part])].to(dtype)
        return (_tempered(side[:, :shared], temperature) for side in (rows, theirs))

    def losses(rows: Tensor, part: slice) -> Tensor:
        return diverge(*(side.log_softmax(-1) for side in sides(rows, part)), form)

    def slope(rows: Tensor, part: slice) -> Tensor:
        found = _tempered(_slope(*sides(rows, part), form), temperature)
        return pad(found, (0, rows.shape[-1] - shared)) if shared < rows.shape[-1] else found

    return recomputed(losses, student, places, slope=slope)


def divergence_of_tops(
    student: Tensor,
    places: Tensor,
    log_probs: Tensor,
    ids: Tensor,
    tail: Tensor,
    form: Divergence,
    temperature: float,
    vocabulary: int | None = None,
) -> Tensor:
    """The divergence of positions from what a cache holds of a teacher, ``[N]``.

    With another temperature than 1 it is of the merged distributions, each entry raised to its power and made to sum to
    1 again: of the tail no more is known than its sum.

    Args:
        student: raw logits ``[B, L, V]``.
        places: text and position of each, ``[N, 2]`` int64.
        log_probs: the teacher's, ``[N, k]``.
        ids: their tokens, ``[N, k]`` int64.
        tail: the probability of all others, ``[N]``.
        form, temperature: see ``divergence_of_logits``.
        vocabulary: the width of the teacher's logits; what either side has beyond the other's is left out. None for as
            many as the student's.

    Raises:
        ValueError: a token that the student does not have, without ``vocabulary``.
    """
    dtype, width = working_dtype(student.dtype), student.shape[-1]
    if vocabulary is None and ids.numel() and int(ids.max()) >= width:
        raise ValueError(f"the teacher's token {int(ids.max())} is none of the student's {width}")
    vocabulary = width if vocabulary is None else vocabulary
    common = min(width, vocabulary)

    def losses(rows: Tensor, part: slice) -> Tensor:
        rows, tokens, theirs = rows[:, :common], ids[part], log_probs[part].to(dtype)
        rest = tail[part, None].to(dtype).log()
        if common < vocabulary:  # behind the common tokens is one of probability 0, in place of the teacher's padding
            rows, tokens = pad(rows, (0, 1), value=-torch.inf), tokens.clamp(max=common)
            theirs = theirs.masked_fill(tokens == common, -torch.inf)
            rest = rest.masked_fill((tokens < common).sum(-1, keepdim=True) == common, -torch.inf)
        ours = rows.gather(1, tokens)
        if ids.shape[1] < vocabulary:
            ours = torch.cat([ours, log_sum(rows.scatter(1, tokens, -torch.inf))], dim=1)
            theirs = torch.cat([theirs, rest], dim=1)
        return diverge(*(_tempered(side, temperature).log_softmax(-1) for side in (ours, theirs)), form)

    return recomputed(losses, student, places)


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    return logits if temperature == 1 else logits / temperature


def diverge(ours: Tensor, theirs: Tensor, form: Divergence) -> Tensor:
    """The divergence of log-probabilities ``[..., n]``, of which an entry may be -inf; ``[...]``.

    Forward is ``KL(theirs || ours)``, reverse ``KL(ours || theirs)``, jsd the mean of both sides' divergence from their
    mean. Where one side excludes what the other does not, forward or reverse is infinite.
    """
    if form == "forward":
        return _relative(theirs, ours)
    if form == "reverse":
        return _relative(ours, theirs)
    ours, theirs = ours.clamp(min=_LOWEST), theirs.clamp(min=_LOWEST)
    middle = _middle(ours, theirs)
    return (_relative(ours, middle) + _relative(theirs, middle)) / 2


def _middle(ours: Tensor, theirs: Tensor) -> Tensor:
    """The logarithm of the mean of both sides' probabilities."""
    return torch.logaddexp(ours, theirs) - math.log(2)


def _slope(ours: Tensor, theirs: Tensor, form: Divergence) -> Tensor:
    """The derivative of the divergence of logits ``[n, V]`` with respect to ``ours``, ``[n, V]``.

    Forward it is ``p - q``. Reverse it is ``p (d - sum p d)``, d being how far p's logarithm is above q's; for jsd half
    of it, with q's place taken by the mean of both.
    """
    if form == "forward":
        return ours.softmax(-1).sub_(theirs.softmax(-1))
    ours, theirs = ours.log_softmax(-1), theirs.log_softmax(-1)
    if form == "jsd":
        ours = ours.clamp(min=_LOWEST)
        theirs = _middle(ours, theirs.clamp(min=_LOWEST))
    probabilities, above = ours.exp(), ours - theirs
    mean = (probabilities * above).sum(-1, keepdim=True)
    if theirs.device.type != "cpu" or mean.isnan().any():  # entries of probability 0 have no part
        above = above.masked_fill(probabilities == 0, 0.0)
        mean = (probabilities * above).sum(-1, keepdim=True)
    return above.sub_(mean).mul_(probabilities).mul_(0.5 if form == "jsd" else 1.0)


def diverge_measures(ours: Tensor, theirs: Tensor, form: Divergence) -> Tensor:
    """``diverge`` of what need not sum to 1, such as parts of distributions: at least 0, and 0 for equals.

    Forward is ``sum theirs log(theirs / ours) - theirs + ours``, reverse the same with the sides exchanged (Csiszar's
    I-divergence). Without the sums, the least value of the forward form were at ever larger ``ours``, and that of the
    reverse form at ``theirs / e``. Where both sides sum to the same, and for jsd, this is ``diverge``.
    """
    if form == "jsd":
        return diverge(ours, theirs, form)
    larger, smaller = (ours, theirs) if form == "forward" else (theirs, ours)
    return diverge(ours, theirs, form) + larger.exp().sum(-1) - smaller.exp().sum(-1)


def _relative(first: Tensor, second: Tensor) -> Tensor:
    """``KL(first || second)``; entries whose probability is 0 in ``first`` have no part, nor a gradient."""
    if first.device.type == "cpu":  # a GPU would have to be waited for
        found = (first.exp() * (first - second)).sum(-1)
        if not found.isnan().any():  # as it is where ``first`` excludes an entry
            return found
    excluded = first.exp() == 0  # also where it is only too small for this precision, and ``second`` excludes it
    first, second = first.masked_fill(excluded, 0.0), second.masked_fill(excluded, 0.0)
    return (first.exp() * (first - second)).masked_fill(excluded, 0.0).sum(-1)


def log_sum(values: Tensor) -> Tensor:
    """``logsumexp`` over the last dimension, which is kept; -inf, without a gradient, where all entries are."""
    none = values.detach().amax(-1, keepdim=True).isneginf()
    if values.device.type == "cpu" and not none.any():
        return values.logsumexp(-1, keepdim=True)
    return values.masked_fill(none, 0.0).logsumexp(-1, keepdim=True).masked_fill(none, -torch.inf)
