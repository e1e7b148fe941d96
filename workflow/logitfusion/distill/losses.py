"""Losses between the logits of a student and of a teacher whose vocabulary may be another one.

* ``uld_loss``: sorted L1 of each position (Universal Logit Distillation, Boizard et al. 2024, arXiv 2402.12030).
* ``gld_loss``: sorted L1 of the node features of a graph of each text (InfiGFusion, arXiv 2505.13893).

InfiGFusion's repository has no code of its loss. This follows the published formulas; k, the normalisation and the
signal of its experiments are not published, so no match with its numbers is claimed.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from logitfusion.config.objective import Nodes, Objective, Signal
from logitfusion.distill.alignment import pair_in_order
from logitfusion.distill.graph import NODES, NORMALISATIONS
from logitfusion.distill.predictions import Predictions, predict_at
from logitfusion.distill.selection import working_dtype
from logitfusion.distill.sorted_l1 import SortedL1
from logitfusion.distill.terms import DISTANCES, gld_of_predictions, uld_of_predictions
from logitfusion.tensors import check_logits, check_tensors, check_whole

DEFAULTS = Objective()
# Raw logits, as published, are known to the losses from logits alone: caches hold log-probabilities.
SIGNALS = (*get_args(Signal), "logit")
# The first is the default.
REDUCTIONS = ("mean", "sum", "none")


def gld_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    k: int = DEFAULTS.k,
    nodes: Nodes = DEFAULTS.nodes,
    signal: Signal | Literal["logit"] = DEFAULTS.signal,
    student_mask: Tensor | None = None,
    teacher_mask: Tensor | None = None,
    normalize: str = NORMALISATIONS[0],
    reduction: str = REDUCTIONS[0],
    distance: str = DISTANCES[0],
    order: int = 2,
) -> Tensor:
    """Graph-on-logits distillation: ``sum_i |f_student_(i) - f_teacher_(i)|``, features sorted in descending order.

    The features of a text are ``f = Z^T (Z 1)``, see ``logitfusion.distill.graph``. Published are the graph, the
    sorted row sums and their L1 distance; derived are the short form of f, the default signal and the divisions by
    positions and k (without the first, a tokenizer that cuts the text finer is a loss by itself). Graphs with unlike
    numbers of nodes are filled up with isolated ones, whose feature is 0. No positions are aligned.

    The default signal is ``"prob"``: a channel outside the top-k has signal 0, which means that it is (almost)
    impossible, as it is. In ``"logprob"`` the same 0 means probability 1. Raw logits, as published, change the loss
    when a constant is added, which no probability sees.

    With ``normalize="none"`` and n nodes each (after filling up), this is ``n^2 W_1 <= n^2 GW_1``: a scaled lower
    bound of the Gromov-Wasserstein distance, not the distance. **Known zero**: graphs of equal row sums look the same,
    such as a cycle of six nodes and two triangles, although their squared GW_2 is 2/9. ``distance`` names other
    bounds, which build the graphs and are for short texts.

    Args:
        student: raw logits ``[B, L, V_s]``, any float type; -inf entries take no part.
        teacher: raw logits ``[B, L', V_t]`` of the same texts; no gradient flows to them.
        k: entries of each position, at most the smaller vocabulary.
        nodes: ``"vocab"`` or ``"rank"`` (as drawn in the paper; sorting does nothing there).
        signal: ``"prob"``, ``"logprob"`` (natural, normalised over the whole vocabulary) or ``"logit"``.
        student_mask: ``[B, L]``, true where a position counts (the response); all by default.
        teacher_mask: ``[B, L']``.
        normalize: ``"positions_and_k"``, ``"positions"`` or ``"none"`` (as published).
        reduction: over texts: ``"mean"``, ``"sum"`` or ``"none"``, which gives ``[B]``. A text without a position
            that counts, on either side, has loss 0 and is no part of the mean.
        distance: ``"sorted"`` (published), or a bound of ``logitfusion.distill.bounds.gromov_bound``: ``"flb"``,
            ``"slb"``, ``"tlb"``, ``"sorted_plan"`` or ``"spread"``, for graphs of up to 2,048 nodes.
        order: of such a bound, 1 or 2.

    Returns:
        A scalar (``[B]`` with ``"none"``), fp32, or float64 where the student's logits are. Its unit is that of the
        signal, squared: none for ``"prob"``, squared nats for ``"logprob"``.

    Raises:
        TypeError: logits or masks that are no tensors, logits that are no floating-point numbers, a k that is no whole
            number.
        ValueError: shapes, devices, masks or names that can't be used; k below 1 or beyond a vocabulary; a graph too
            large for a bound; no text with a position that counts; logits z-scored over the same top-k (then
            ``Z 1 = 0`` and the loss is 0 whatever the models say).
        ImportError: ``distance="tlb"`` without scipy.
    """
    masks = _check_inputs(student, teacher, student_mask, teacher_mask)
    _check_k(k, student, teacher)
    check_name("nodes", nodes, NODES)
    _check_signal(signal)
    check_name("normalize", normalize, NORMALISATIONS)
    check_name("reduction", reduction, REDUCTIONS)
    check_name("distance", distance, DISTANCES)
    ours, theirs = _read(student, teacher, masks, k, signal)
    if signal == "logit":
        _refuse_z_scores(ours, student.dtype, "student")
        _refuse_z_scores(theirs, teacher.dtype, "teacher")
    losses = gld_of_predictions(
        ours, theirs, k=k, nodes=nodes, signal=signal, normalize=normalize, distance=distance, order=order
    )
    return _reduced(losses, int((masks[0].any(1) & masks[1].any(1)).sum()), reduction)


def uld_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    k: int | None = None,
    signal: Signal | Literal["logit"] = DEFAULTS.signal,
    student_mask: Tensor | None = None,
    teacher_mask: Tensor | None = None,
    reduction: str = REDUCTIONS[0],
) -> Tensor:
    """Universal logit distillation: ``sum_i |p_(i) - q_(i)|`` of each position, entries in descending order.

    The i-th position of the student that counts is held against the i-th of the teacher, and what is left of the
    longer text is cut off (the published fallback for unlike tokenizers; give aligned positions to do better).

    Args:
        student: raw logits ``[B, L, V_s]``, any float type; -inf entries have probability 0.
        teacher: raw logits ``[B, L', V_t]`` of the same texts; no gradient flows to them.
        k: only the k largest of each position (their probabilities are not made to sum to 1, the rest is left out);
            None for whole vocabularies, the smaller filled up with tokens of probability 0.
        signal: ``"prob"`` (published); with k also ``"logprob"`` and ``"logit"``.
        student_mask: ``[B, L]``, true where a position counts (the response); all by default.
        teacher_mask: ``[B, L']``.
        reduction: over pairs of positions: ``"mean"``, ``"sum"``, or ``"none"`` for the sum of each text, ``[B]``.

    Returns:
        A scalar (``[B]`` with ``"none"``), fp32, or float64 where the student's logits are; for probabilities between
        0 and 2 a position, without unit.

    Raises:
        TypeError: logits or masks that are no tensors, logits that are no floating-point numbers, a k that is no whole
            number.
        ValueError: shapes, devices, masks or names that can't be used; k below 1 or beyond a vocabulary; another
            signal than probabilities with whole vocabularies (a logarithm of 0 can't fill them up); no pair of
            positions.
    """
    masks = _check_inputs(student, teacher, student_mask, teacher_mask)
    _check_signal(signal)
    check_name("reduction", reduction, REDUCTIONS)
    groups = pair_in_order(*(mask.sum(1) for mask in masks))
    if k is None:
        if signal != "prob":
            raise ValueError(f'uld_loss over whole vocabularies compares probabilities: signal="prob", not {signal!r}')
        places = [mask.nonzero() for mask in masks]
        pairs = torch.cat([places[0][groups[:, 0]], places[1][groups[:, 2], 1:]], dim=1)
        factors = torch.zeros(len(pairs), 2, dtype=working_dtype(student.dtype), device=student.device)
        losses = SortedL1.apply(student, teacher.detach(), pairs, factors)
        by_text = losses.new_zeros(len(student)).index_add(0, pairs[:, 0], losses)
    else:
        _check_k(k, student, teacher)
        by_text = uld_of_predictions(*_read(student, teacher, masks, k, signal), groups, k=k, signal=signal)
    return _reduced(by_text, len(groups), reduction)


def _read(
    student: Tensor, teacher: Tensor, masks: tuple[Tensor, Tensor], k: int, signal: str
) -> tuple[Predictions, Predictions]:
    """The predictions of both, without a gradient to the teacher."""
    normalised = signal != "logit"
    with torch.no_grad():
        theirs = predict_at(teacher, masks[1], k, normalised=normalised)
    return predict_at(student, masks[0], k, normalised=normalised), theirs


def _reduced(losses: Tensor, count: int, reduction: str) -> Tensor:
    if reduction == "none":
        return losses
    return losses.sum() / count if reduction == "mean" else losses.sum()


def _check_inputs(
    student: Tensor, teacher: Tensor, student_mask: Tensor | None, teacher_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Both masks as bool, of inputs that fit together."""
    check_logits(student=student, teacher=teacher)
    if student.ndim != 3 or teacher.ndim != 3 or len(student) != len(teacher):
        raise ValueError(
            "the student's logits are [B, L, V] and the teacher's [B, L', V'] of the same B texts, not"
            f" {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    masks = _mask(student_mask, student, "student"), _mask(teacher_mask, teacher, "teacher")
    if not (masks[0].any(1) & masks[1].any(1)).any():
        raise ValueError(
            "no text has a position that counts in the student and in the teacher: the masks leave nothing"
        )
    return masks


def _mask(mask: Tensor | None, logits: Tensor, name: str) -> Tensor:
    if mask is None:
        return torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)
    check_tensors(**{f"{name}_mask": mask})
    if mask.shape != logits.shape[:2]:
        raise ValueError(f"{name}_mask is [B, L] = {tuple(logits.shape[:2])}, not {tuple(mask.shape)}")
    return mask.to(logits.device, torch.bool)


def _check_k(k: int, student: Tensor, teacher: Tensor) -> None:
    check_whole("k", k)
    smaller = min(student.shape[-1], teacher.shape[-1])
    if not 1 <= k <= smaller:
        raise ValueError(f"k is between 1 and the size of the smaller vocabulary, {smaller}, not {k}")


def check_name(what: str, given: str, known: tuple[str, ...]) -> None:
    """Refuse a name that is not known."""
    if given not in known:
        raise ValueError(f"{what} is one of {known}, not {given!r}")


_Z_SCORED = (
    "entries z-scored over the same top-k sum to 0 at every position, so all node features are 0 and the loss is 0"
    ' whatever the models say; use signal="logprob" or "prob"'
)


def _check_signal(signal: str) -> None:
    if signal in ("zscore", "z-score", "z_score"):
        raise ValueError(f"signal {signal!r} can't be used: {_Z_SCORED}")
    check_name("signal", signal, SIGNALS)


def _refuse_z_scores(predictions: Predictions, dtype: torch.dtype, name: str) -> None:
    """Whether every position's top-k sums to 0 within rounding, which no model's raw logits do."""
    values = predictions.signals("logit", predictions.ids.shape[1]).detach()
    size = values.abs().sum(-1)
    balanced = (values.sum(-1).abs() <= max(torch.finfo(dtype).eps, 1e-5) * size) & (size > 0)
    if len(values) and balanced.all():
        raise ValueError(f"the {name}'s logits look z-scored: {_Z_SCORED}")
