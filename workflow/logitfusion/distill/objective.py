"""What a student is trained on: its own labels, and the predictions of teachers (InfiGFusion, arXiv 2505.13893)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from logitfusion.config.objective import Combine, Divergence, Nodes, Normalisation, Signal
from logitfusion.distill.comparison import CachedTeacher, Comparison, Teacher
from logitfusion.distill.graph import NODES
from logitfusion.distill.losses import DEFAULTS, check_name
from logitfusion.distill.predictions import Predictions, check_labels, predict
from logitfusion.distill.selection import working_dtype
from logitfusion.distill.terms import gld_of_predictions
from logitfusion.tensors import check_count, check_range


@dataclass(frozen=True)
class DistillLoss:
    """The objective and its parts, scalars in fp32 (float64 for float64 logits).

    Attributes:
        total: the objective, with a gradient.
        sft, uld, gld, kl, hybrid: its parts before their factors, detached; of several teachers already combined. Parts
            with factor 0 are not computed, and 0.
        teacher: ``[B]`` int64, the teacher chosen for each text with ``"min_ce"``, else None.
    """

    total: Tensor
    sft: Tensor
    uld: Tensor
    gld: Tensor
    kl: Tensor
    hybrid: Tensor
    teacher: Tensor | None


def distill_loss(
    student: Tensor,
    labels: Tensor,
    teachers: Sequence[Teacher | CachedTeacher],
    *,
    k: int = DEFAULTS.k,
    uld_weight: float,
    gld_weight: float,
    kl_weight: float = 0.0,
    hybrid_weight: float = 0.0,
    sft_weight: float | None = None,
    combine: Combine = DEFAULTS.combine,
    nodes: Nodes = DEFAULTS.nodes,
    signal: Signal = DEFAULTS.signal,
    divergence: Divergence = DEFAULTS.divergence,
    temperature: float = DEFAULTS.temperature,
    shared_weight: float | None = DEFAULTS.shared_weight,
    normalisation: Normalisation = DEFAULTS.normalisation,
    uld_k: int | None = None,
    tokens: int | Tensor | None = None,
    texts: int | Tensor | None = None,
) -> DistillLoss:
    """``(1 - lambda) SFT + lambda_uld ULD + lambda_gld GLD + ...`` over one or more teachers, lambda being their sum.

    SFT, ULD, KL and the hybrid term are divided by the number of the student's labels, GLD by the number of texts that
    have one. Under gradient accumulation give ``tokens`` and ``texts`` of the whole step: then the parts add up to one
    large batch.

    Where the positions of a teacher are grouped, ULD and the hybrid term compare merged distributions: that of a
    group's last position times the probability of the group's earlier tokens (the chain rule, shifted; derived, the
    paper cuts the longer text). KL needs teachers whose tokens are the student's, by number; it has positions that one
    token of either side stands for, and leaves out merged groups.

    Args:
        student: raw logits ``[B, L, V_s]``.
        labels: ``[B, L]`` int64, -100 outside the response; ``labels[:, t]`` belongs to ``student[:, t - 1]``.
        teachers: any number; none only without a factor of theirs. For the hybrid term each has its shared tokens.
        k: of GLD; a cached teacher must hold as many.
        uld_weight, gld_weight: lambda_uld and lambda_gld; how the paper splits lambda is not published.
        kl_weight: of the divergence of each position; a cached teacher's is over its tokens and the rest, see
            ``logitfusion.distill.divergence``.
        hybrid_weight: of the divergence on shared tokens and the sorted L1 on the others, see
            ``logitfusion.distill.hybrid``.
        sft_weight: None for what the other factors leave of 1.
        combine: ``"sum"`` over teachers (published); ``"weighted"``, by their weights; ``"min_ce"``, for each text the
            teacher that finds it likeliest. Cross-entropies are of whole responses there and not of a token, as
            tokenizers cut the same text into unlike numbers of tokens.
        nodes, signal: of GLD, see ``gld_loss``, which alone knows raw logits.
        divergence: of KL and of the hybrid term.
        temperature: of KL.
        shared_weight: of the divergence in the hybrid term, whose sorted L1 has the rest of 1; None for the share of
            the teacher's tokens that the student has.
        normalisation: ``"labels"`` as above; with ``"texts"``, ULD and the hybrid term are the mean over a text's
            groups, KL over its single positions, and then over the texts (as in TRL's GOLD): a short text counts as
            much as a long one, and merging makes no term smaller.
        uld_k: k of ULD; None for whole vocabularies, which a cache does not hold.
        tokens, texts: what to divide by instead of this batch's own numbers; sums of masks may be given as they are.

    Raises:
        TypeError: logits that are no floating-point numbers, labels that are not int64, a k that is no whole number.
        ValueError: shapes, devices or names that can't be used, labels beyond the vocabulary, factors that are negative
            or not finite, no teachers, no labels.
    """
    factors = _factors(sft_weight, uld_weight, gld_weight, kl_weight, hybrid_weight)
    check_name("divergence", divergence, get_args(Divergence))
    check_range("the temperature", (temperature,))
    if not temperature > 0:
        raise ValueError(f"the temperature is above 0, not {temperature}")
    if shared_weight is not None and not 0 <= shared_weight <= 1:
        raise ValueError(f"shared_weight is between 0 and 1, not {shared_weight}")
    check_name("normalisation", normalisation, get_args(Normalisation))
    check_name("combine", combine, get_args(Combine))
    check_name("nodes", nodes, NODES)
    check_name("signal", signal, get_args(Signal))
    if not teachers and any(factors[1:]):
        raise ValueError("ULD, GLD, KL and the hybrid term need at least one teacher")
    check_labels(student, labels, "the student")
    tokens, texts = (one.item() if isinstance(one, Tensor) and one.numel() == 1 else one for one in (tokens, texts))
    for name, count in (("k", k), ("uld_k", uld_k), ("tokens", tokens), ("texts", texts)):
        if count is not None:
            check_count(name, count)
    largest = max(k if gld_weight else 1, (uld_k or 1) if uld_weight else 1)
    ours = predict(student, labels, largest)
    counted = ours.counts > 0
    tokens = len(ours.label_log_probs) if tokens is None else tokens
    texts = int(counted.sum()) if texts is None else texts
    pairs = texts if normalisation == "texts" else tokens
    if not counted.any():
        raise ValueError("no label of the student counts: all are -100, or only the first of a text is not")
    read = [_predictions(teacher, largest, len(student)) for teacher in teachers]
    shares, chosen = _shares(teachers, read, combine, student)
    zero = ours.label_log_probs.new_zeros(())
    parts = [-ours.label_log_probs.sum() / tokens, zero, zero, zero, zero]
    for teacher, theirs, share in zip(teachers, read, shares, strict=True):
        if not (counted & (theirs.counts > 0) & (share > 0)).any():
            continue
        compared = Comparison(student, labels, ours, teacher, theirs, share > 0, means=normalisation == "texts")
        if uld_weight:
            parts[1] = parts[1] + (share * compared.uld(uld_k)).sum() / pairs
        if gld_weight:
            losses = gld_of_predictions(ours, theirs, k=k, nodes=nodes, signal=signal, mask=share > 0)
            parts[2] = parts[2] + (share * losses).sum() / texts
        if kl_weight:
            parts[3] = parts[3] + (share * compared.kl(divergence, temperature)).sum() / pairs
        if hybrid_weight:
            parts[4] = parts[4] + (share * compared.hybrid(divergence, shared_weight)).sum() / pairs
    total = sum(factor * part for factor, part in zip(factors, parts, strict=True) if factor)
    return DistillLoss(total, *(part.detach() for part in parts), chosen)


@torch.no_grad()
def _predictions(teacher: Teacher | CachedTeacher, k: int, texts: int) -> Predictions:
    if isinstance(teacher, Teacher):
        check_labels(teacher.logits, teacher.labels, "the teacher")
        found = predict(teacher.logits, teacher.labels, k)
    else:
        found = teacher.predictions
        if found.log_probs.shape[1] < k:
            raise ValueError(f"the teacher's cache holds the top {found.log_probs.shape[1]} of a position, not {k}")
    if len(found.counts) != texts:
        raise ValueError(f"student and teacher predict the same texts, not {texts} and {len(found.counts)}")
    return found


def _factors(sft_weight: float | None, *others: float) -> tuple[float, ...]:
    sft = 1 - sum(others) if sft_weight is None else sft_weight
    check_range("the factors of SFT, ULD, GLD, KL and the hybrid term", (sft, *others))
    return max(sft, 0.0), *others


def _shares(
    teachers: Sequence[Teacher | CachedTeacher], read: list[Predictions], combine: str, student: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Each teacher's share of each text, ``[T, B]``, and the chosen ones ``[B]``."""
    if combine == "min_ce" and teachers:
        chosen = torch.stack([_cross_entropy(one) for one in read]).argmin(0)
        return torch.arange(len(teachers), device=student.device)[:, None] == chosen, chosen
    weights = [one.weight if combine == "weighted" else 1.0 for one in teachers]
    check_range("the weights of teachers", weights)
    given = torch.tensor(weights, dtype=working_dtype(student.dtype), device=student.device)
    return given[:, None].expand(-1, len(student)), None


def _cross_entropy(one: Predictions) -> Tensor:
    """Of each whole response, ``[B]``; a teacher that has no label of it, or does not know it, is the last choice."""
    total = one.label_log_probs.new_zeros(len(one.counts)).index_add(0, one.texts, -one.label_log_probs)
    return total.float().masked_fill((one.counts == 0) | total.isnan(), torch.inf)
